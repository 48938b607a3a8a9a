"""The reduced module: what a function reaches of its module, and nothing else.

Pure: source and values in, source out. The reduced module holds the top-level statements that the
function reaches by name, at their original line numbers, so that tracebacks show the right lines;
all other lines are blank. Rules, in the order in which they apply to a reached name:

1. a definition or an import stands as it is (an import of several names narrowed to those reached)
2. a value that Python can write down travels as it is *now*, as `NAME = <literal>`
3. what an `if` or `try` binds: that whole statement, unless it is `if __name__ == ...`
4. any other value: its top-level assignments, to be made again in the job
5. what belongs to the Cumulus client, or is made in a loop or `with`, can't travel: PackagingError
"""

import ast
import builtins
import types
from collections.abc import Callable, Mapping
from typing import Any

from cumulus_client._callables import client_part
from cumulus_client._literals import literal_source
from cumulus_client._module_syntax import check_compiles, syntax_of
from cumulus_client._names import (
    Form,
    Reach,
    import_bindings,
    is_type_checking,
    root_name,
)
from cumulus_client._slice_text import Fragments
from cumulus_client.exceptions import PackagingError

_MISSING = object()
_MODULE_NAMES = frozenset(
    {"__name__", "__file__", "__doc__", "__package__", "__spec__", "__loader__", "__builtins__"}
)


def slice_module(
    source: str,
    namespace: Mapping[str, Any],
    roots: list[str],
    *,
    filename: str,
    unwrap: Callable[[Any], Any],
) -> str:
    """The reduced module.

    `namespace`: the module's globals as they are now. `roots`: names to keep; the first is the
    function. `unwrap`: a function out of what a Cumulus decorator made of it, anything else as it
    is. Raises PackagingError naming function, global and what to do.
    """
    return _Slicer(source, namespace, roots[0], filename, unwrap).slice(roots)


class _Statement:
    """One top-level statement and what is to be kept of it."""

    def __init__(self, index: int, node: ast.stmt, binds: dict[str, Form]) -> None:
        self.index = index
        self.node = node
        self.binds = binds
        self.kept = False
        self.names: set[str] = set()  # of an import: those reached


class _Slicer:
    def __init__(
        self,
        source: str,
        namespace: Mapping[str, Any],
        function: str,
        filename: str,
        unwrap: Callable[[Any], Any],
    ) -> None:
        self._source = source
        self._namespace = namespace
        self._function = function
        self._filename = filename
        self._unwrap = unwrap
        try:
            self._syntax = syntax_of(source, filename)
        except (SyntaxError, ValueError) as error:
            raise PackagingError(
                f"function {function!r}: the source of its module can't be read: {error}",
                hint="was the file edited after it was started? run it again",
            ) from error
        parts = zip(self._syntax.statements, self._syntax.binds, strict=True)
        self._statements = [_Statement(index, *each) for index, each in enumerate(parts)]
        self._may_refine = [self._statements[at] for at in sorted(self._syntax.may_refine)]
        self._binders: dict[str, list[_Statement]] = {}
        for statement in self._statements:
            for name in statement.binds:
                self._binders.setdefault(name, []).append(statement)
        self._queue: list[tuple[str, bool]] = []
        self._via: dict[str, str | None] = {}
        self._literals: dict[str, str] = {}  # name -> "NAME = ..."
        self._remade: set[str] = set()  # names whose assignments run again in the job
        self._starred: dict[str, _Statement] = {}

    def slice(self, roots: list[str]) -> str:
        for statement in self._statements:
            node = statement.node
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                statement.kept, statement.names = True, set(statement.binds)
        for name in roots:
            self._want(name, None, needed=True)
        self._drain()
        while self._keep_refinements():
            pass
        self._check_remade()
        return self._text()

    # --- what is reached ---------------------------------------------------------------------

    def _want(self, name: str, via: str | None, *, needed: bool) -> None:
        if name not in self._via:
            self._via[name] = via
            self._queue.append((name, needed))

    def _drain(self) -> None:
        while self._queue:
            name, needed = self._queue.pop()
            if needed:
                self._take(name)
                continue
            saved = self._save()
            try:
                self._take(name)
            except PackagingError:
                self._restore(saved)  # only an annotation wants it

    def _save(self) -> tuple[Any, ...]:
        return (
            [(statement.kept, set(statement.names)) for statement in self._statements],
            list(self._queue),
            dict(self._via),
            dict(self._literals),
            set(self._remade),
            dict(self._starred),
        )

    def _restore(self, saved: tuple[Any, ...]) -> None:
        kept, self._queue, self._via, self._literals, self._remade, self._starred = saved
        for statement, (was_kept, names) in zip(self._statements, kept, strict=True):
            statement.kept, statement.names = was_kept, names

    def _take(self, name: str) -> None:
        if name in _MODULE_NAMES:
            return
        value = self._namespace.get(name, _MISSING)
        binders = self._binders.get(name, [])
        if value is _MISSING:
            # A type-checking import; or a builtin; or what would be a NameError here as well.
            for statement in binders:
                if is_type_checking(statement.node):
                    self._keep(statement, name)
            return
        plain = self._unwrap(value)
        forms = {statement.binds[name] for statement in binders}
        if plain is not value and Form.DEFINITION not in forms and forms != {Form.IMPORT}:
            self._alias(name, plain, binders)
        elif plain is value and client_part(value):
            raise self._cant(name, self._client_reason(value), self._client_remedy(value))
        elif not binders:
            self._unbound(name, value)
        elif forms == {Form.IMPORT}:
            for statement in binders:
                statement.names.add(name)
                self._keep(statement, name)
        elif forms == {Form.DEFINITION}:
            for statement in binders:
                self._keep(statement, name)
        elif (text := literal_source(value)) is not None:
            self._literals[name] = f"{name} = {text}"
        else:
            self._remake(name, value, binders, forms)

    def _alias(self, name: str, plain: Any, binders: list[_Statement]) -> None:
        """`g = remote(client)(f)`: in the job `g` is `f`."""
        target = getattr(plain, "__name__", "")
        if not binders or self._unwrap(self._namespace.get(target)) is not plain or target == name:
            raise self._cant(
                name,
                f"it runs {target!r} remotely, and that is no top-level function of this module",
                f"define {target!r} at the top level of the module",
            )
        self._literals[name] = f"{name} = {target}"
        self._want(target, name, needed=True)

    def _unbound(self, name: str, value: Any) -> None:
        """In the module's globals, but no statement of its source binds it."""
        for statement in self._statements:
            node = statement.node
            if isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names):
                self._starred[name] = statement
                return
        if getattr(builtins, name, _MISSING) is value:
            return
        text = literal_source(value)
        if isinstance(value, types.ModuleType):
            self._literals[name] = f"import {value.__name__} as {name}"
        elif text is not None:
            self._literals[name] = f"{name} = {text}"
        else:
            raise self._cant(
                name,
                f"no statement in {self._filename} binds it at the top level",
                "pass it as an argument, or define it at the top level of the same file or cell",
            )

    def _remake(self, name: str, value: Any, binders: list[_Statement], forms: set[Form]) -> None:
        if Form.MAIN_GUARD in forms:
            raise self._cant(
                name,
                "it is bound under `if __name__ == ...`, which doesn't run in the job",
                "bind it at the top level of the module, or pass it as an argument",
            )
        if Form.BLOCK in forms and isinstance(value, types.FunctionType | type | types.ModuleType):
            raise self._cant(
                name,
                "it is defined inside a `with`, a loop or a `match`, which must not run in the job",
                "move the definition or import to the top level of the module",
            )
        if Form.BLOCK in forms:
            raise self._cant(
                name,
                f"a {type(value).__name__} can't be written into source, and it is bound in a "
                "loop, a `with` or a `match`",
                "make it inside the function, or pass it as an argument",
            )
        self._remade.add(name)
        for statement in binders:
            statement.names.add(name)
            self._keep(statement, name)

    def _keep(self, statement: _Statement, name: str) -> None:
        if statement.kept:
            return
        statement.kept = True
        found = self._reach(statement)
        for reached in sorted(found.needed):
            self._want(reached, name, needed=True)
        for reached in sorted(found.optional):
            self._want(reached, name, needed=False)

    def _reach(self, statement: _Statement) -> Reach:
        node = statement.node
        without: tuple[int, ...] = ()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = enumerate(node.decorator_list)
            without = tuple(at for at, each in decorators if self._is_client_decorator(each))
        return self._syntax.reach(statement.index, without)

    def _is_client_decorator(self, decorator: ast.expr) -> bool:
        name = root_name(decorator)
        return name is not None and client_part(self._namespace.get(name))

    # --- what belongs to a reached value without being reached by name ------------------------

    def _keep_refinements(self) -> bool:
        """Keeps `NAME.x = ...`, `NAME[k] = ...`, and what `@NAME.register` decorates. True when
        there was one."""
        for statement in self._may_refine:
            if statement.kept or not self._refines(statement.node):
                continue
            saved = self._save()
            try:
                self._keep(statement, self._function)
                self._drain()
            except PackagingError:
                # It can't travel: such as `f.result = client.run(f)`. Don't look at it again.
                self._restore(saved)
                self._statements = [s for s in self._statements if s is not statement]
                self._may_refine = [s for s in self._may_refine if s is not statement]
            return True
        return False

    def _refines(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return all(
                isinstance(target, ast.Attribute | ast.Subscript) and self._lives(root_name(target))
                for target in targets
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return any(self._registers(decorator) for decorator in node.decorator_list)
        return False

    def _lives(self, name: str | None) -> bool:
        """Is it reached, and made anew in the job rather than written down?"""
        return (
            name in self._via
            and name not in self._literals
            and (any(statement.kept for statement in self._binders.get(name or "", [])))
        )

    def _registers(self, decorator: ast.expr) -> bool:
        name = root_name(decorator)
        if name is None or self._is_client_decorator(decorator):
            return False
        if isinstance(self._namespace.get(name), types.ModuleType):
            return False
        if not isinstance(decorator, ast.Name) and self._lives(name):
            inner = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(inner, ast.Attribute):
                return True  # @f.register, @f.register(int)
        # @register("a"), where `register` fills a container that is reached
        return any(
            remade in self._reach(statement).needed
            for statement in self._binders.get(name, [])
            if statement.binds[name] is Form.DEFINITION
            for remade in self._remade
            if type(self._namespace.get(remade)) in (dict, list, set)
        )

    def _check_remade(self) -> None:
        """Refuses what its statements would make anew otherwise than it is now."""
        for name in sorted(self._remade):
            binders = self._binders[name]
            values = [
                node.value
                for node in (statement.node for statement in binders)
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            ]
            if len(values) != len(binders) or not all(map(_is_literal, values)):
                continue
            setters = [s for s in self._statements if name in self._reach_if_def(s).sets_global]
            if any(setter.kept for setter in setters) or self._refined(name):
                continue
            raise self._cant(
                name,
                f"its statement says {ast.unparse(values[-1])[:60]}, but it is a "
                f"{type(self._namespace[name]).__name__} now, which can't be written into source",
                "make it inside the function, or pass it as an argument",
            )

    def _reach_if_def(self, statement: _Statement) -> Reach:
        if isinstance(statement.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return self._reach(statement)
        return Reach(set(), set(), set())

    def _refined(self, name: str) -> bool:
        return any(
            statement.kept and name not in statement.binds and self._refines(statement.node)
            for statement in self._statements
        )

    # --- errors ------------------------------------------------------------------------------

    def _cant(self, name: str, why: str, remedy: str) -> PackagingError:
        chain = [name]
        via = self._via.get(name)
        while via is not None and via not in chain:
            chain.append(via)
            via = self._via.get(via)
        through = [link for link in reversed(chain[1:]) if link != self._function]
        uses = "".join(f"{link!r}, which uses " for link in through)
        line = next((s.node.lineno for s in self._binders.get(name, [])), None)
        where = f" ({self._filename}, line {line})" if line is not None else ""
        if name == self._function:
            message = f"function {name!r}{where} can't be shipped: {why}"
        else:
            message = (
                f"function {self._function!r} uses {uses}the global {name!r}{where}, "
                f"which can't travel: {why}"
            )
        return PackagingError(message, hint=remedy)

    def _client_reason(self, value: Any) -> str:
        if isinstance(value, type | types.ModuleType | types.FunctionType):
            return "it is part of cumulus_client, which a job doesn't have"
        return f"it is a {type(value).__name__} of the Cumulus client"

    def _client_remedy(self, value: Any) -> str:
        if type(value).__name__ in ("CumulusJob", "AsyncCumulusJob"):
            return "take its result() here and pass that as an argument"
        return "keep what submits jobs out of the function, and pass values as arguments"

    # --- the text ----------------------------------------------------------------------------

    def _text(self) -> str:
        fragments = Fragments(self._source)
        for statement in self._statements:
            if statement.kept:
                self._emit(fragments, statement)
        for name, text in self._literals.items():
            binders = self._binders.get(name, [])
            fragments.put(binders[0].node if binders else None, text)
        for name, statement in self._starred.items():
            node = statement.node
            assert isinstance(node, ast.ImportFrom)
            one = ast.ImportFrom(node.module, [ast.alias(name)], node.level)
            fragments.put(node, ast.unparse(one))
        text = fragments.text()
        try:
            check_compiles(text, self._filename)
        except SyntaxError as error:
            raise PackagingError(
                f"function {self._function!r}: reducing {self._filename} gave wrong source at "
                f"line {error.lineno}: {error.msg}",
                hint="put each statement on a line of its own; please report this",
            ) from error
        return text

    def _emit(self, fragments: Fragments, statement: _Statement) -> None:
        node = statement.node
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = import_bindings(node)
            if len(statement.names) < len(set(names)):
                aliases = [
                    alias
                    for alias, name in zip(node.names, names, strict=True)
                    if name in statement.names
                ]
                narrowed: ast.stmt
                if isinstance(node, ast.Import):
                    narrowed = ast.Import(aliases)
                else:
                    narrowed = ast.ImportFrom(node.module, aliases, node.level)
                fragments.replace(node, ast.unparse(narrowed))
                return
        stripped: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stripped = [d for d in node.decorator_list if self._is_client_decorator(d)]
        fragments.keep(node, without=stripped)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
