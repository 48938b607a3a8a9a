"""Whose requests are being answered, so that they can be cut when who asks may no longer."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from cumulusd.errors import NotAuthenticated


@attrs.define(eq=False)
class Asker:
    """One request under way."""

    request: Request
    working: Deferred[Any] | None = None  #: who makes the answer
    why: str | None = None  #: it was cut, and why

    def cut(self, why: str) -> None:
        """Whoever makes the answer is cancelled, and says why; what only streams is cut off."""
        self.why = why
        if self.working is not None and not self.working.called:
            self.working.cancel()
        elif self.request.channel is not None:
            self.request.channel.forceAbortClient()  # type: ignore[no-untyped-call]

    def error(self) -> NotAuthenticated | None:
        """What it is told when it was cut."""
        return None if self.why is None else NotAuthenticated(self.why[0].upper() + self.why[1:])


class Askers:
    """All of a site, by the principals' names."""

    def __init__(self) -> None:
        self._askers: dict[str, dict[Asker, None]] = {}

    def add(self, name: str, request: Request) -> Asker:
        """Until the request is answered, or its connection is gone."""
        asker = Asker(request)
        self._askers.setdefault(name, {})[asker] = None

        def over(_: object) -> None:
            mine = self._askers[name]
            del mine[asker]
            if not mine:
                del self._askers[name]

        request.notifyFinish().addBoth(over)
        return asker

    def cut(self, name: str, why: str) -> int:
        """Cuts all requests of that principal; how many there were."""
        askers = list(self._askers.get(name, ()))
        for asker in askers:
            asker.cut(why)
        return len(askers)
