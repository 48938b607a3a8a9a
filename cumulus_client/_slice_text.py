"""Puts kept statements back at their own lines. Pure: syntax tree nodes in, text out."""

import ast


class _Fragment:
    __slots__ = ("column", "joinable", "line", "lines", "node")

    def __init__(
        self, line: int, column: int, lines: list[str], joinable: bool, node: ast.stmt | None
    ) -> None:
        self.line = line  # 1-based, of the first of `lines`
        self.column = column
        self.lines = lines
        self.joinable = joinable  # other simple statements may stand on its line
        self.node = node


class Fragments:
    """What is kept of one module's source."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._fragments: list[_Fragment] = []
        self._added: list[tuple[ast.stmt | None, str]] = []

    def keep(self, node: ast.stmt, *, without: list[ast.expr]) -> None:
        """A statement as it is; `without`: decorators to leave out."""
        joinable = not hasattr(node, "body")
        end_line = node.end_lineno or node.lineno
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        starts = [self._at_sign(decorator) for decorator in decorators]
        first = min([node.lineno, *starts])
        if joinable:
            first_line = _cut(self._lines[first - 1], node.col_offset, None)
            lines = [first_line, *self._lines[first:end_line]]
            end = node.end_col_offset or 0
            begin = node.col_offset if end_line == first else 0
            lines[-1] = _cut(self._lines[end_line - 1], begin, end)
        else:
            lines = self._lines[first - 1 : end_line]
        bounds = [*starts, node.lineno]
        for index, decorator in enumerate(decorators):
            if decorator in without:
                for line in range(bounds[index], bounds[index + 1]):
                    lines[line - first] = ""
        self._fragments.append(_Fragment(first, node.col_offset, lines, joinable, node))

    def _at_sign(self, decorator: ast.expr) -> int:
        line = decorator.lineno
        while line > 1 and not self._lines[line - 1].lstrip().startswith("@"):
            line -= 1
        return line

    def replace(self, node: ast.stmt, text: str) -> None:
        """One line of simple statement in place of `node`."""
        self._fragments.append(_Fragment(node.lineno, node.col_offset, [text], True, node))

    def put(self, node: ast.stmt | None, text: str) -> None:
        """One line of simple statement in place of `node`, after it when it is kept as well; at
        the end when there is no `node`."""
        self._added.append((node, text))

    def text(self) -> str:
        """The reduced source."""
        fragments = list(self._fragments)
        whole = {id(f.node): f for f in fragments if f.node is not None}
        last: list[str] = []
        for node, text in self._added:
            kept = whole.get(id(node))
            if node is None:
                last.append(text)
            elif kept is None:
                fragments.append(_Fragment(node.lineno, node.col_offset, [text], True, None))
            elif kept.joinable:
                end = kept.line + len(kept.lines) - 1
                fragments.append(_Fragment(end, node.end_col_offset or 0, [text], True, None))
            else:
                after = kept.line + len(kept.lines)
                if any(f.line <= after < f.line + len(f.lines) for f in fragments):
                    last.append(text)
                else:
                    fragments.append(_Fragment(after, 0, [text], True, None))
        return self._laid_out(fragments, last)

    def _laid_out(self, fragments: list[_Fragment], last: list[str]) -> str:
        out = [""] * len(self._lines)
        for fragment in sorted(fragments, key=lambda f: (f.line, f.column)):
            for index, line in enumerate(fragment.lines):
                position = fragment.line - 1 + index
                while position >= len(out):
                    out.append("")
                here = out[position]
                out[position] = f"{here.rstrip()}; {line}" if here and index == 0 else line
        return "\n".join([*out, *last]).rstrip("\n") + "\n"


def _cut(line: str, begin: int, end: int | None) -> str:
    # The syntax tree counts columns in UTF-8 bytes.
    return line.encode()[begin:end].decode()
