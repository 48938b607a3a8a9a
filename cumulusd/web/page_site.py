"""The page's files: read once, served with a tag that browsers ask by, under a strict policy."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from cumulusd.errors import NotFound
from cumulusd.web.answers import Answer

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Nothing from elsewhere, no inline script, no frame around it, no form sent anywhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Kept, and asked for again each time: after an upgrade no old file meets a new one.
        "Cache-Control": "no-cache",
    }
)


@attrs.frozen
class PageFile:
    """One file as it is served."""

    body: bytes
    content_type: str
    tag: str  #: strong, in quotes


class PageSite:
    """The files by name. What isn't in the folder at the start, or of another kind, isn't there."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: Mapping[str, PageFile] = {
            path.name: _read(path)
            for path in folder.iterdir()
            if path.suffix in _TYPES and path.is_file()
        }

    def answer(self, name: str, if_none_match: str | None) -> Answer:
        """That file, or 304 where the browser has it. Raises NotFound."""
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"The page has no file {name[:100]!r}")
        headers = {**_HEADERS, "ETag": file.tag}
        if if_none_match is not None and file.tag in _tags(if_none_match):
            return Answer(status=304, content_type=file.content_type, headers=headers)
        return Answer(status=200, body=file.body, content_type=file.content_type, headers=headers)


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return PageFile(body, _TYPES[path.suffix], tag)


def _tags(header: str) -> list[str]:
    """The tags of `If-None-Match`; what a cache on the way weakened is as good."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]
