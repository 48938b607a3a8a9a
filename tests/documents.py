"""The project's documents as data: what links to what, which commands and names stand in them."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^ *```(?P<language>[a-z]*) *\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"(?<!\!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_ENDS = {"|", "||", "&&", ";", "&", "|&"}


@attrs.frozen
class Found:
    """Something in a document. `line` counts from 1."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def documents() -> list[Path]:
    """All Markdown that is, or would be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(set(filter(None, listed.stdout.split("\0"))))
    return [ROOT / name for name in names if (ROOT / name).exists()]


def blocks(path: Path, language: str) -> Iterator[Found]:
    """The fenced blocks of that language."""
    text = path.read_text()
    for match in _FENCE.finditer(text):
        if match["language"] == language:
            yield _found(path, text, match.start("body"), match["body"])


def inline(path: Path) -> Iterator[Found]:
    """What stands in backticks, in one line of text each."""
    text = path.read_text()
    prose = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in _INLINE.finditer(prose):
        yield _found(path, text, match.start(), " ".join(match[1].split()))


def links(path: Path) -> Iterator[Found]:
    """Where links and images lead, but for other hosts."""
    text = path.read_text()
    prose = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    prose = _INLINE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), prose)
    for match in _LINK.finditer(prose):
        target = match[1] or match[2]
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield _found(path, text, match.start(), target)


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        name, count = plain, 0
        while name in found:
            count += 1
            name = f"{plain}-{count}"
        found.add(name)
    return found


def dead_links(path: Path) -> list[str]:
    """Links of that document to files and headings that aren't there."""
    dead = []
    for link in links(path):
        target, _, anchor = link.text.partition("#")
        there = path if not target else path.parent / target
        if not there.exists():
            dead.append(f"{link}: no such file")
        elif anchor and there.suffix == ".md" and anchor not in anchors(there.read_text()):
            dead.append(f"{link}: no such heading")
    return dead


def commands(block: Found) -> Iterator[Found]:
    """The simple commands of a block of shell, words separated by NUL; assignments before one and
    redirections are left out."""
    lines = block.text.split("\n")
    at = 0
    while at < len(lines):
        first, line = at, lines[at]
        while line.endswith("\\") and at + 1 < len(lines):
            at += 1
            line = line[:-1] + " " + lines[at].strip()
        at += 1
        for words in _split(line):
            yield Found(block.document, block.line + first, "\0".join(words))


def _split(line: str) -> Iterator[list[str]]:
    bare = re.sub(r"\$\([^()]*\)", "SUBSTITUTED", line)
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from _split(inner)
    lexer = shlex.shlex(bare, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _ENDS:
            words.append(word)
            continue
        words = _plain(words)
        if words:
            yield words
        words = []


def _plain(words: list[str]) -> list[str]:
    """Without assignments, sudo, and redirections."""
    words = list(words)
    while words and (re.match(r"[A-Za-z_][A-Za-z0-9_]*=", words[0]) or words[0] in _BEFORE):
        words.pop(0)
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif re.fullmatch(r"[<>&]+", word):
            skip = True
        else:
            kept.append(word)
    return kept


_BEFORE = {"sudo", "exec", "time"}


def _found(path: Path, text: str, at: int, what: str) -> Found:
    return Found(str(path.relative_to(ROOT)), text.count("\n", 0, at) + 1, what)


def quoted(path: Path) -> Iterator[Found]:
    """What a page says is seen: the first cell of each row of its tables, in backticks."""
    text = path.read_text()
    for match in re.finditer(r"^\| `([^`]+)` \|", text, re.MULTILINE):
        yield _found(path, text, match.start(), match[1])


def said_somewhere(quote: str, texts: list[str]) -> bool:
    """Does one of the texts hold all of the quote's parts, in order? `…` stands for anything."""
    parts = [part.strip() for part in quote.split("…")]
    wanted = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    return any(wanted.search(text) for text in texts)


def texts_of_code(folders: tuple[str, ...]) -> list[str]:
    """Every string of Python's, those with values in them as one, and every line of shell."""
    texts: list[str] = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    texts.append("".join(map(_part, node.values)))
        for path in sorted((ROOT / folder).glob("*.sh")):
            texts += path.read_text().splitlines()
    return texts


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "\0"
