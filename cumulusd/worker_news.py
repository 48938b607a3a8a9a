"""Tells who listens that workers changed: soon, and no more often than every so often."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.logger import Logger

from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most

#: At most one word in so long, however much changes.
PAUSE_S = 1.0
#: Looked at without being told too: nodes, and shares that drain.
LOOK_S = 5.0

Views = Sequence[Mapping[str, Any]]


class WorkerNews:
    """`views()`: all workers as an admin sees them; `publish(views)` hands them on."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: Any,
        views: Callable[[], Views],
        publish: Callable[[Views], None],
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        """While nobody listens (`is_heard`) nothing is looked at."""
        self._clock = clock
        self._views = views
        self._publish = publish
        self._is_heard = is_heard
        self._told: Any = None
        self._changed = False
        self._signal = Signal()
        self._tasks = Tasks()

    def start(self) -> None:
        """Begins to look."""
        self._tasks.start(self._run(), "telling of workers")

    async def stop(self) -> None:
        """Ends it."""
        await self._tasks.stop()

    def changed(self) -> None:
        """Something of a worker is another now."""
        self._changed = True
        self._signal.fire()

    async def _run(self) -> None:
        while True:
            if not self._changed:
                await wait_at_most(self._clock, LOOK_S, self._signal.wait())
            self._changed = False
            try:
                self._tell()
            except Exception:
                # One bad look must not end the telling.
                self._log.failure("telling of workers failed, going on")
            await sleep(self._clock, PAUSE_S)

    def _tell(self) -> None:
        if not self._is_heard():
            self._told = None  # who comes is told at the next look
            return
        views = self._views()
        # Time runs for all of them: that alone is no news.
        lasting = [_without_time(view) for view in views]
        if lasting != self._told:
            self._told = lasting
            self._publish(views)


def _without_time(view: Mapping[str, Any]) -> dict[str, Any]:
    devices = [
        {
            **device,
            "partitions": [
                {key: value for key, value in one.items() if key != "remaining_s"}
                for one in device["partitions"]
            ],
        }
        for device in view["devices"]
    ]
    return {**view, "devices": devices}
