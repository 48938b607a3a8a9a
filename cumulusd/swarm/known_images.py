"""What the engine says of images, asked once for many jobs, and ahead where it will be needed."""

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cumulusd.errors import CumulusError, Unavailable
from cumulusd.swarm.answers import ImageInfo
from cumulusd.tasks import Tasks

#: So long what a tag means isn't asked again: many jobs at once ask once.
FRESH_S = 1.0


class _Engine(Protocol):
    async def image(self, reference: str) -> ImageInfo: ...


class _Clock(Protocol):
    def seconds(self) -> float: ...


class KnownImages:
    """The engine's images; what was last seen says its version of Python. `close` it."""

    _log = Logger()

    def __init__(self, engine: _Engine, clock: _Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._known: tuple[str, ImageInfo, float] | None = None
        #: reference -> who waits for the answer that is on its way
        self._asked: dict[str, list[Deferred[ImageInfo]]] = {}
        self._tasks = Tasks()
        self.python_version: str | None = None

    async def image(self, reference: str) -> ImageInfo:
        """As the engine's, at most `FRESH_S` ago. Raises CumulusError."""
        known = self._fresh(reference)
        if known is not None:
            return known
        waiting: Deferred[ImageInfo] = Deferred()
        self._ask(reference, waiting)
        return await waiting

    def foresee(self, reference: str) -> None:
        """`image` will be called for it in a moment: the engine is asked meanwhile."""
        if self._fresh(reference) is None:
            self._ask(reference)

    async def close(self) -> None:
        """Who still waits gets Unavailable."""
        await self._tasks.stop()

    # -- inside

    def _fresh(self, reference: str) -> ImageInfo | None:
        if self._known is None:
            return None
        name, found, asked_at = self._known
        is_fresh = name == reference and self._clock.seconds() - asked_at < FRESH_S
        return found if is_fresh else None

    def _ask(self, reference: str, *waiting: Deferred[ImageInfo]) -> None:
        there = self._asked.get(reference)
        if there is not None:
            there += waiting
            return
        self._asked[reference] = list(waiting)
        self._tasks.start(self._look(reference), "looking at an image", image=reference)

    async def _look(self, reference: str) -> None:
        asked_at = self._clock.seconds()
        try:
            found = await self._engine.image(reference)
        except CancelledError:
            self._fail(reference, Unavailable("the daemon is stopping: no image is looked at"))
            raise
        except Exception as error:
            self._fail(reference, error)
            return
        self._known = reference, found, asked_at
        self.python_version = found.python_version
        for each in self._asked.pop(reference):
            if not each.called:
                each.callback(found)

    def _fail(self, reference: str, error: Exception) -> None:
        waiting = [each for each in self._asked.pop(reference) if not each.called]
        for each in waiting:
            each.errback(error)
        if waiting:
            return
        if not isinstance(error, CumulusError):
            raise error
        self._log.debug(
            "what {image} is can't be asked ahead, the launch asks again: {why}",
            image=reference,
            why=error.message,
        )
