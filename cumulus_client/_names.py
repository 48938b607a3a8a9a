"""Which names statements bind and which they reach. Pure: syntax trees in, names out."""

import ast
import symtable
import sys
from collections.abc import Iterable, Iterator
from enum import Enum

from cumulus_client._parsing import parse_expression


class Form(Enum):
    """How a top-level statement binds a name."""

    DEFINITION = "definition"
    IMPORT = "import"
    ASSIGNMENT = "assignment"
    BRANCH = "branch"  #: somewhere inside an `if` or `try`
    BLOCK = "block"  #: somewhere inside a loop, `with`, `match`, or by `:=`
    MAIN_GUARD = "main guard"  #: inside `if __name__ == ...`


def bound_names(statement: ast.stmt) -> dict[str, Form]:
    """The module-level names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name: Form.DEFINITION}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return dict.fromkeys(import_bindings(statement), Form.IMPORT)
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            return {}
        form = Form.ASSIGNMENT
    elif isinstance(statement, ast.If) and is_main_guard(statement):
        form = Form.MAIN_GUARD
    elif isinstance(statement, ast.If | ast.Try):
        form = Form.BRANCH
    else:
        form = Form.BLOCK
    return dict.fromkeys(_bound_inside(statement), form)


def import_bindings(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """The names an import binds; a star binds none that can be read off."""
    if isinstance(statement, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    return [alias.asname or alias.name for alias in statement.names if alias.name != "*"]


def is_main_guard(statement: ast.If) -> bool:
    """Is it `if __name__ == "__main__"`, in any spelling?"""
    return any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def is_type_checking(statement: ast.stmt) -> bool:
    """Is it `if TYPE_CHECKING`, in any spelling?"""
    return isinstance(statement, ast.If) and any(
        (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
        for node in ast.walk(statement.test)
    )


def _bound_inside(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for child in _own_scope(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(child.name)
        elif isinstance(child, ast.Import | ast.ImportFrom):
            names.update(import_bindings(child))
        elif isinstance(child, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            names.update({child.name} if child.name else ())
        elif isinstance(child, ast.MatchMapping) and child.rest:
            names.add(child.rest)
    return names


def _own_scope(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what is inside, without the insides of inner scopes."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        for inner in ast.walk(node):  # `:=` in a comprehension binds outside of it
            if isinstance(inner, ast.NamedExpr):
                yield inner.target
        return
    for child in ast.iter_child_nodes(node):
        yield from _own_scope(child)


class Reach:
    """Names of the module that a statement uses."""

    __slots__ = ("needed", "optional", "sets_global")

    def __init__(self, needed: set[str], optional: set[str], sets_global: set[str]) -> None:
        self.needed = needed  #: looked up when it runs, or when what it defines runs
        self.optional = optional  #: in annotations that nobody need evaluate
        self.sets_global = sets_global  #: assigned by a function that says `global`


def reach(statement: ast.stmt, *, lazy_annotations: bool) -> Reach:
    """What `statement` reaches, by the compiler's own scoping rules. One thread at a time: the
    nodes are changed, and changed back.

    `lazy_annotations`: the module has `from __future__ import annotations`.
    """
    lazy = lazy_annotations or sys.version_info >= (3, 14)
    stripper = _Annotations(lazy)
    try:
        bare = ast.unparse(stripper.visit(statement))
    finally:
        stripper.put_back()
    found = Reach(set(), set(), set())
    table = symtable.symtable(bare, "<slice>", "exec")
    for symbol in table.get_symbols():
        if symbol.is_referenced():
            found.needed.add(symbol.get_name())
    for child in table.get_children():
        _inner(child, found)
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        found.needed.add(statement.target.id)
    for annotation in stripper.stripped:
        found.optional.update(_annotation_names(annotation))
    found.optional -= found.needed
    return found


def _inner(table: symtable.SymbolTable, found: Reach) -> None:
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if symbol.is_global():
            if symbol.is_assigned() and symbol.is_declared_global():
                found.sets_global.add(name)
            if symbol.is_referenced() or symbol.is_assigned():
                found.needed.add(name)
        elif table.get_type() == "class" and symbol.is_referenced():
            found.optional.add(name)  # `x = x` in a class body reads the module's
    for child in table.get_children():
        _inner(child, found)


class _Annotations(ast.NodeTransformer):
    """Takes out annotations that aren't evaluated, and all that are strings, until `put_back`."""

    def __init__(self, lazy: bool) -> None:
        self._lazy = lazy
        self._in_function = False
        self.stripped: list[ast.expr] = []
        self._before: list[tuple[ast.AST, str, ast.expr | None]] = []

    def put_back(self) -> None:
        """Makes the nodes what they were."""
        for node, name, annotation in self._before:
            setattr(node, name, annotation)

    def _take(self, node: ast.AST, name: str, always: bool = False) -> bool:
        """True when it is out."""
        annotation: ast.expr | None = getattr(node, name)
        if annotation is None:
            return False
        if always or self._lazy:
            self.stripped.append(annotation)
            self._before.append((node, name, annotation))
            setattr(node, name, None)
            return True
        self.stripped += [
            node
            for node in ast.walk(annotation)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        return False

    def visit_arg(self, node: ast.arg) -> ast.arg:
        self._take(node, "annotation")
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._take(node, "returns")
        outer, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self._in_function = self._in_function, False
        self.generic_visit(node)
        self._in_function = outer
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # A local variable's annotation is never evaluated.
        if self._take(node, "annotation", always=self._in_function):
            node.annotation = ast.Constant(None)
        self.generic_visit(node)
        return node


def _annotation_names(annotation: ast.expr) -> Iterable[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                inner = parse_expression(node.value)
            except SyntaxError:
                continue  # some text, as in Annotated[int, "metres"]
            for name in ast.walk(inner):
                if isinstance(name, ast.Name):
                    yield name.id


def root_name(expression: ast.expr) -> str | None:
    """`a` of `a`, `a.b`, `a.b[c]`, `a.b(c).d`; None when it begins otherwise."""
    while True:
        if isinstance(expression, ast.Name):
            return expression.id
        if isinstance(expression, ast.Attribute | ast.Subscript | ast.Starred):
            expression = expression.value
        elif isinstance(expression, ast.Call):
            expression = expression.func
        else:
            return None
