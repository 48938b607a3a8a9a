"""Requirements as they are compared: what means the same is written the same. Pure.

Only what the rules of names and specifiers say is the same is joined (letters' case, `-`, `_` and
`.`, blanks, the order of extras and of specifiers, comments); whatever isn't understood stays as
it is. uv is given these lines too, so what it makes is a function of what the cache's key is of.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_NAMED = re.compile(rf"({_WORD})\s*(?:\[([^\[\]]*)\])?\s*(.*)", re.DOTALL)
_EXTRA = re.compile(_WORD)
_SPECIFIER = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([^\s,;()<>=!~]+)")
_COMMENT = re.compile(r"(^|\s)#.*", re.DOTALL)
_SEPARATORS = re.compile(r"[-_.]+")
_QUOTED = re.compile(r"(\"[^\"]*\"|'[^']*')")
#: Names of archives stand for files, though they look like names of packages.
_ARCHIVE = re.compile(r"\.(whl|zip|tgz|tar|tar\.[a-z0-9]+|tbz|txz|tlz)$", re.IGNORECASE)
#: What a direct reference may begin with to be the same for every job.
_REMOTE = re.compile(r"(https?|(git|hg|bzr|svn)(\+[a-z]+)?)://", re.IGNORECASE)


def normalised(requirements: Sequence[str]) -> list[str]:
    """Each in its one form, without blank lines and repetitions, in alphabetical order."""
    return sorted({_one_form(line) for line in requirements} - {""})


def is_local(requirement: str) -> bool:
    """It names files of this job or options for uv, so no other job may share the outcome."""
    if requirement.startswith("-") or "file:" in requirement:
        return True
    named = _NAMED.fullmatch(requirement)
    if named is None:
        return not _REMOTE.match(requirement)
    rest = named[3]
    if rest.startswith("@"):
        return not _REMOTE.match(rest[1:].lstrip())
    if _REMOTE.match(requirement):
        return False
    # `some/folder`, `thing.whl`: a path, where neither specifier nor marker may begin.
    return not (rest == "" or rest[0] in "=~!<>;( ") or bool(_ARCHIVE.search(named[1]))


def _one_form(line: str) -> str:
    line = _COMMENT.sub("", line).strip()
    named = _NAMED.fullmatch(line)
    if named is None or _ARCHIVE.search(named[1]):
        return line
    name, extras, rest = named[1], named[2], named[3]
    head = _name(name)
    if extras is not None:
        words = [word.strip() for word in extras.split(",") if word.strip()]
        if not all(_EXTRA.fullmatch(word) for word in words):
            return line
        if words:
            head += "[" + ",".join(sorted({_name(word) for word in words})) + "]"
    if rest.startswith("@"):
        # The address stays as it is; a marker needs a blank before it, so it is part of the rest.
        return f"{head} @ {rest[1:].strip()}"
    specifiers, semicolon, marker = rest.partition(";")
    told = _specifiers(specifiers.strip())
    if told is None or (semicolon and not marker.strip()):
        return line
    return head + told + (f"; {_marker(marker)}" if semicolon else "")


def _name(word: str) -> str:
    return _SEPARATORS.sub("-", word).lower()


def _specifiers(text: str) -> str | None:
    """None: it is no list of them."""
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if not text:
        return ""
    found = [_SPECIFIER.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        return None
    return ",".join(sorted({each[1] + each[2] for each in found if each is not None}))


def _marker(text: str) -> str:
    """Blanks as one, save those in quotes."""
    parts = _QUOTED.split(text.strip())
    return "".join(
        part if index % 2 else re.sub(r"\s+", " ", part) for index, part in enumerate(parts)
    )
