"""What is read off the source of modules, once for each content.

A file that was changed is another content, so nothing here is ever out of date.
"""

import ast
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from cumulus_client._names import Form, Reach, bound_names, is_type_checking, reach
from cumulus_client._parsing import parse_module

_T = TypeVar("_T")

#: Modules whose imports are remembered.
MAX_FACTS = 4096
#: Source whose syntax trees are remembered, which take about a hundred times as much memory.
MAX_TREES_CHARS = 256 << 10


class Imports:
    """What a module imports, anywhere in it."""

    def __init__(self, tree: ast.Module) -> None:
        self._found = [
            (0, "", [alias.name for alias in node.names])
            if isinstance(node, ast.Import)
            else (node.level, node.module or "", [alias.name for alias in node.names])
            for node in _imports(tree.body)
        ]
        #: The line on which importing it imports cumulus_client for certain, else None.
        self.client_line = _client_import_line(tree.body)

    def names(self, parent: str) -> Iterator[str]:
        """The absolute names; for `from a import b` both `a` and `a.b`. `parent`: the package that
        relative imports start from."""
        for level, base, names in self._found:
            if not level and not base:
                yield from names
                continue
            if level:
                anchor = parent.split(".") if parent else []
                anchor = anchor[: len(anchor) - (level - 1)]
                base = ".".join([*anchor, *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{name}" for name in names)


def _imports(statements: Sequence[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    ahead = list(reversed(statements))  # no recursion: each `elif` is one level deeper
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
            continue
        inside = ("body", "handlers", "orelse", "finalbody", "cases")
        ahead += reversed([each for name in inside for each in getattr(node, name, None) or ()])


def _client_import_line(statements: list[ast.stmt]) -> int | None:
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            level = node.level if isinstance(node, ast.ImportFrom) else 0
            if not level and any((n or "").split(".")[0] == "cumulus_client" for n in names):
                return node.lineno
        elif isinstance(node, ast.If | ast.With | ast.For) and not is_type_checking(node):
            line = _client_import_line(node.body)
            if line is not None:
                return line
    return None


class ModuleSyntax:
    """A module's top-level statements. Shared by threads; nobody changes the nodes."""

    def __init__(self, tree: ast.Module) -> None:
        self.statements = tree.body
        self.binds: list[dict[str, Form]] = [bound_names(node) for node in tree.body]
        #: it has `from __future__ import annotations`
        self.lazy_annotations = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(alias.name == "annotations" for alias in node.names)
            for node in tree.body
        )
        #: the statements that may belong to a value that others bind
        self.may_refine = frozenset(
            index for index, node in enumerate(tree.body) if _may_refine(node)
        )
        self._reaches: dict[tuple[int, tuple[int, ...]], Reach] = {}
        self._one_at_a_time = threading.Lock()

    def reach(self, index: int, without: tuple[int, ...]) -> Reach:
        """What a statement reaches. `without`: which of its decorators don't count."""
        key = (index, without)
        with self._one_at_a_time:
            if key not in self._reaches:
                node = self.statements[index]
                if without and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    kept = [d for at, d in enumerate(node.decorator_list) if at not in without]
                    node = _with_decorators(node, kept)
                self._reaches[key] = reach(node, lazy_annotations=self.lazy_annotations)
            return self._reaches[key]

    def begins(self, function_name: str, line: int) -> bool:
        """Does a function of that name begin on that line, decorators included?"""

        def does(node: ast.AST) -> bool:
            return (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == function_name
                and line == next((d.lineno for d in node.decorator_list), node.lineno)
            )

        if any(map(does, self.statements)):
            return True  # as nearly always, and quickly told
        return any(does(node) for statement in self.statements for node in ast.walk(statement))


def _may_refine(node: ast.stmt) -> bool:
    """`NAME.x = ...`, `NAME[k] = ...`, or a decorated definition."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(each, ast.Attribute | ast.Subscript) for each in targets)
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, definitions) and bool(node.decorator_list)


def _with_decorators(
    node: ast.FunctionDef | ast.AsyncFunctionDef, decorators: list[ast.expr]
) -> ast.FunctionDef | ast.AsyncFunctionDef:
    fields = dict(ast.iter_fields(node)) | {"decorator_list": decorators}
    return ast.copy_location(type(node)(**fields), node)


class _Remembered(Generic[_T]):
    """The latest by their source, bounded."""

    def __init__(self, make: Callable[[ast.Module], _T], *, max_count: int, max_chars: int) -> None:
        self._make = make
        self._max_count = max_count
        self._max_chars = max_chars
        self._held: OrderedDict[bytes, tuple[_T, int]] = OrderedDict()
        self._chars = 0
        self._lock = threading.Lock()

    def of(self, source: str | bytes, filename: str) -> _T:
        """Raises SyntaxError, ValueError."""
        key = _digest(source)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        made = self._make(parse_module(source, filename))
        with self._lock:
            if key not in self._held:
                self._held[key] = made, len(source)
                self._chars += len(source)
            while len(self._held) > self._max_count or self._chars > self._max_chars:
                self._chars -= self._held.popitem(last=False)[1][1]
        return made


def _digest(source: str | bytes) -> bytes:
    # Bytes may name their own encoding: the same ones as text may be another module.
    if isinstance(source, str):
        return hashlib.sha256(b"text" + source.encode("utf-8", "surrogatepass")).digest()
    return hashlib.sha256(b"file" + source).digest()


_imported = _Remembered(Imports, max_count=MAX_FACTS, max_chars=1 << 62)
_syntax = _Remembered(ModuleSyntax, max_count=MAX_FACTS, max_chars=MAX_TREES_CHARS)


_compiled: OrderedDict[bytes, None] = OrderedDict()
_compiled_lock = threading.Lock()


def check_compiles(source: str, filename: str) -> None:
    """Raises SyntaxError."""
    key = _digest(source)
    with _compiled_lock:
        if key in _compiled:
            return
    compile(source, filename, "exec", dont_inherit=True)  # beside others: it may take long
    with _compiled_lock:
        _compiled[key] = None
        if len(_compiled) > MAX_FACTS:
            _compiled.popitem(last=False)


def imports_of(source: str | bytes, filename: str = "<unknown>") -> Imports:
    """What a module imports. Raises SyntaxError, ValueError."""
    return _imported.of(source, filename)


def syntax_of(source: str, filename: str = "<unknown>") -> ModuleSyntax:
    """A module's syntax. Raises SyntaxError, ValueError."""
    return _syntax.of(source, filename)
