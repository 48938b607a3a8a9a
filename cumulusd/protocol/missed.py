"""What one session missed for being slow: how many events of each subscription, and the newest.

An event that is dropped is counted. The next one of its subscription carries the count, so that no
gap stays unseen; and should there be no next one, the newest of those dropped is sent as soon as
the connection takes more. So a slow subscriber always comes to see how things are now.
"""

from collections.abc import Iterator

import attrs

from cumulusd.protocol.messages import Message


@attrs.define
class _Gap:
    count: int = 0
    newest: Message | None = None  #: kept to be sent later, if there was room
    newest_bytes: int = 0


class Missed:
    """The gaps of one session; empty for nearly all of them, nearly always."""

    def __init__(self, *, max_bytes: int) -> None:
        """`max_bytes` bounds the events kept, as they are serialised."""
        self._max_bytes = max_bytes
        self._kept_bytes = 0
        self._gaps: dict[int, _Gap] = {}

    def __bool__(self) -> bool:
        return bool(self._gaps)

    def drop(self, event: Message, size_bytes: int | None) -> None:
        """That event isn't sent. It is kept as the newest unless it has no size (it has no form in
        the session's serialisation) or there is no room."""
        gap = self._gaps.setdefault(event.subscription, _Gap())
        self._kept_bytes -= gap.newest_bytes
        gap.count += 1
        gap.newest, gap.newest_bytes = None, 0
        if size_bytes is not None and self._kept_bytes + size_bytes <= self._max_bytes:
            gap.newest, gap.newest_bytes = event, size_bytes
            self._kept_bytes += size_bytes

    def take(self, subscription: int) -> int:
        """How many events of that subscription were dropped; they are told now."""
        gap = self._gaps.pop(subscription, None)
        if gap is None:
            return 0
        self._kept_bytes -= gap.newest_bytes
        return gap.count

    def newest(self) -> Iterator[tuple[Message, int]]:
        """The events that were kept, each with how many were dropped before it; they are sent
        now. Gaps without one stay."""
        for subscription, gap in list(self._gaps.items()):
            if gap.newest is not None:
                event = gap.newest
                yield event, self.take(subscription) - 1

    def clear(self) -> None:
        """Nobody is to be told any more."""
        self._gaps.clear()
        self._kept_bytes = 0
