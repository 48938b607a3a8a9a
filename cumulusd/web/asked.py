"""A request as those who answer it get it: checked, decoded, its query read. Pure: no I/O."""

from collections.abc import Mapping

import attrs

from cumulusd.errors import InvalidArgument
from cumulusd.identity import Principal
from cumulusd.web.bodies import Body


@attrs.frozen(kw_only=True)
class Head:
    """A request without its body."""

    method: str
    path: str  #: decoded
    query: Mapping[str, list[str]] = attrs.field(factory=dict)
    authorization: str | None = None
    content_type: str | None = None
    accept: str = ""
    last_event_id: str | None = None
    if_none_match: str | None = None  #: the tags of what the asker has already
    origin: str | None = None  #: the page's, where a browser's page asks
    hosts: tuple[str, ...] = ()  #: the `Host` header
    preflight: bool = False  #: a browser asks what a page may do
    secure: bool = True  #: the connection: nobody on a network reads along


@attrs.frozen(kw_only=True)
class Asked:
    """A request that may be answered. What is wrong with its query is gathered, then told."""

    who: Principal
    head: Head
    parameters: Mapping[str, str]
    body: Body | None = None
    _known: tuple[str, ...] | None = ()
    _faults: list[dict[str, str]] = attrs.field(factory=list)

    def flag(self, key: str) -> bool | None:
        """0 or 1 of the query, None when it isn't there, or a fault."""
        text = self._text(key)
        if text is None or text.lower() in ("0", "1", "false", "true"):
            return None if text is None else text.lower() in ("1", "true")
        self.fault(key, "must be 0 or 1")
        return None

    def number(self, key: str, least: int, most: int) -> int | None:
        """A whole number within bounds, None when it isn't there, or a fault."""
        text = self._text(key)
        if text is None:
            return None
        # Longer ones are refused before they are read: that takes time.
        if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        self.fault(key, f"must be {least} to {most}")
        return None

    def fault(self, key: str, message: str) -> None:
        """One more."""
        self._faults.append({"key": key, "message": message})

    def check_query(self) -> None:
        """Raises InvalidArgument with every fault; what the route doesn't know, is one too."""
        for key in self.head.query if self._known is not None else ():
            if key not in (self._known or ()):
                known = ", ".join(self._known or ()) or "none"
                self.fault(key[:100], f"is not known; known: {known}")
        if self._faults:
            words = "; ".join(f"{each['key']} {each['message']}" for each in self._faults[:20])
            raise InvalidArgument(
                f"The query is wrong: {words}", details={"faults": self._faults[:20]}
            )

    def _text(self, key: str) -> str | None:
        texts = self.head.query.get(key)
        if texts and len(texts) > 1:
            self.fault(key, "is given more than once")
        return texts[-1] if texts else None
