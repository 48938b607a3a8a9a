"""A multipart form as it comes: small fields are kept, the one file is passed on piece by piece.

Pure: no I/O. The parsing itself is the library `multipart`'s; bounded here is what is kept of it.
"""

from collections.abc import Iterator

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from cumulusd.errors import InvalidArgument, TooLarge

MAX_PARTS = 64
MAX_FIELD_BYTES = 1 << 20
#: All fields together.
MAX_FIELDS_BYTES = 2 << 20
MAX_NAME_CHARS = 100
MAX_BOUNDARY_CHARS = 200


def boundary_of(content_type: str) -> str:
    """The boundary that a multipart form's Content-Type names. Raises InvalidArgument."""
    boundary: str = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary or len(boundary) > MAX_BOUNDARY_CHARS or "\n" in boundary:
        raise InvalidArgument(
            "The form's Content-Type names no boundary that can be taken",
            hint="let your HTTP library make the Content-Type of a multipart form",
        )
    return boundary


class Form:
    """Fed with a body; gives the file's bytes and keeps the fields."""

    def __init__(self, boundary: str, file_name: str, known: frozenset[str]) -> None:
        """`file_name`: the field that is the file; `known`: the other ones."""
        self._parser = PushMultipartParser(
            boundary.encode("latin-1", "replace"), max_segment_count=MAX_PARTS
        )
        self._file_name = file_name
        self._known = known
        self._kept: dict[str, bytearray] = {}
        self._kept_bytes = 0
        self._name: str | None = None  #: of the part under way; None: it is dropped
        self.has_file = False
        self.faults: list[dict[str, str]] = []

    @property
    def fields(self) -> dict[str, str]:
        """The fields so far, but those that are no text."""
        return {name: data.decode() for name, data in self._kept.items() if _is_text(data)}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The file's bytes in it; must be read to its end. Raises InvalidArgument, TooLarge."""
        if not data:
            return
        try:
            if self._parser.closed:
                return
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._end_part()
                elif self._name == self._file_name:
                    yield bytes(event)
                elif self._name is not None:
                    self._keep(self._name, event)
        except ParserLimitReached as error:
            raise TooLarge(f"The form is over a bound: {error}") from error
        except MultipartError as error:
            raise _malformed(error) from error

    def end(self) -> None:
        """The body is whole. Raises InvalidArgument when the form isn't."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _malformed(error) from error

    def _begin(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        self._name = None
        if name == self._file_name:
            if self.has_file:
                raise InvalidArgument(f"The form has {name} more than once")
            self.has_file = True
        elif name not in self._known:
            self._fault(name, "is no field of a job")
            return
        elif name in self._kept:
            self._fault(name, "is given more than once")
            return
        else:
            self._kept[name] = bytearray()
        self._name = name

    def _keep(self, name: str, data: bytes | bytearray) -> None:
        self._kept_bytes += len(data)
        kept = self._kept[name]
        kept += data
        if len(kept) > MAX_FIELD_BYTES or self._kept_bytes > MAX_FIELDS_BYTES:
            raise TooLarge(
                f"The form's field {name} is too large: a field may have {MAX_FIELD_BYTES} bytes, "
                f"all of them {MAX_FIELDS_BYTES}"
            )

    def _end_part(self) -> None:
        name, self._name = self._name, None
        if name in self._kept and not _is_text(self._kept[name]):
            self._fault(name, "is no UTF-8 text")

    def _fault(self, name: str, message: str) -> None:
        self.faults.append({"key": name[:MAX_NAME_CHARS], "message": message})


def _is_text(data: bytearray) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _malformed(error: MultipartError) -> InvalidArgument:
    return InvalidArgument(f"The form is malformed: {error}")
