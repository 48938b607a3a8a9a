"""Folders of packages on this machine that pip's settings name: brought into the build, left in no
layer.

A package index may be one: a folder of pages, which often link to files beside that folder. What is
brought in is then the nearest folder that holds both.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from builder.errors import BuildError, say
from builder.recipe import MOUNT, WHEELS

#: All that pip is to find there: packages are installed from wheels only.
_KINDS = (".whl", ".metadata", ".html")
_LINK = re.compile(r"<a\s[^>]*?href\s*=\s*[\"']([^\"']+)", re.IGNORECASE)


@dataclass
class Wheels:
    """The folders, each brought in by its number, and what pip is told of them inside the build."""

    folders: list[Path] = field(default_factory=list)

    def links(self, name: str, text: str) -> str:
        """PIP_FIND_LINKS for the steps: URLs as they are, folders by their place inside."""
        places = [self._links(name, word) for word in text.split()]
        return " ".join(place for place in places if place)

    def indexes(self, name: str, text: str) -> str:
        """The same for URLs of package indexes. Raises BuildError."""
        places = [self._index(name, word) for word in text.split()]
        return " ".join(place for place in places if place)

    def _links(self, name: str, word: str) -> str:
        path = _local(word)
        if path is None:
            return word
        return str(self._place(path)) if _is_there(path, name, word) else ""

    def _index(self, name: str, word: str) -> str:
        path = _local(word)
        if path is None:
            return word
        if not _is_there(path, name, word):
            return ""
        whole = _with_linked(path)
        if whole == Path("/"):
            raise BuildError(
                f"{name} names {word}, whose pages link to files all over this machine: have it "
                "beside its files, in one folder"
            )
        return f"file://{self._place(whole) / path.relative_to(whole)}"

    def _place(self, path: Path) -> Path:
        if path not in self.folders:
            self.folders.append(path)
        return Path(MOUNT, WHEELS, str(self.folders.index(path)))

    def mount_points(self, context: Path) -> list[tuple[Path, Path]]:
        """(folder, its place in the context, which is made here), for a build that can mount."""
        points = [(path, self._inside(context, path)) for path in self.folders]
        for _, place in points:
            place.mkdir(parents=True, exist_ok=True)
        return points

    def copy(self, context: Path) -> None:
        """Puts the wheels into the context, for a build that can't mount."""
        for path in self.folders:
            place = self._inside(context, path)
            if place.exists():
                continue
            say(f"copying the wheels of {path} into the build")
            shutil.copytree(path, place, ignore=_not_for_pip, copy_function=_link_or_copy)

    def _inside(self, context: Path, path: Path) -> Path:
        return context / WHEELS / str(self.folders.index(path))


def _local(word: str) -> Path | None:
    """The path that a word of pip's settings means; None: it is a URL of another machine."""
    scheme = urlsplit(word).scheme
    if scheme == "file":
        return Path(unquote(urlsplit(word).path)).resolve()
    return None if scheme else Path(word).expanduser().resolve()


def _is_there(path: Path, name: str, word: str) -> bool:
    if path.is_dir():
        return True
    # As pip itself has it: others of the list may do.
    say(f"{name} names {word}, and there is no such folder here: left out")
    return False


def _with_linked(index: Path) -> Path:
    """The nearest folder that holds the index and all files that its pages link to."""
    found = {str(index)}
    for page in index.glob("*/index.html"):
        base = page.as_uri()
        for link in _LINK.findall(page.read_text(encoding="utf-8", errors="replace")):
            target = urlsplit(urljoin(base, unescape(link)))
            if target.scheme == "file":
                found.add(os.path.dirname(unquote(target.path)))
    return Path(os.path.commonpath(found))


def _not_for_pip(folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if not name.endswith(_KINDS) and not os.path.isdir(os.path.join(folder, name))
    }


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or a file that isn't ours
        shutil.copyfile(source, target)


def pip_variables(
    environ: Mapping[str, str], index_url: str | None
) -> tuple[dict[str, str], Wheels]:
    """What pip is told of where packages come from, and the folders that go with it.

    Raises BuildError.
    """
    wheels = Wheels()
    links = wheels.links("PIP_FIND_LINKS", environ.get("PIP_FIND_LINKS", ""))
    extra = wheels.indexes("PIP_EXTRA_INDEX_URL", environ.get("PIP_EXTRA_INDEX_URL", ""))
    index = wheels.indexes("the package index", index_url or "")
    told = {"PIP_FIND_LINKS": links, "PIP_EXTRA_INDEX_URL": extra, "PIP_INDEX_URL": index}
    return {name: text for name, text in told.items() if text}, wheels
