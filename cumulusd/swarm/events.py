"""The engine's stream of events: kept open, opened again. They are hints, never the truth."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cumulusd.errors import CumulusError
from cumulusd.swarm.answers import Event, error_of
from cumulusd.swarm.transport import Transport
from cumulusd.tasks import sleep, wait_at_most

_log = Logger()
#: A connection can die in silence; one so old is replaced, heard from or not.
STREAM_LIFE_S = 120.0
MAX_EVENT_BYTES = 1 << 20
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0


class EventParser:
    """JSON objects, one a line, from bytes as they come. Pure."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises ValueError on what is none."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of over {MAX_EVENT_BYTES} bytes")
        try:
            return [Event.read(json.loads(line)) for line in lines if line.strip()]
        except (AttributeError, TypeError) as error:
            raise ValueError(f"no event: {error}") from error


async def follow_events(
    transport: Transport,
    clock: Any,
    path: Callable[[], Awaitable[str]],
    kinds: Sequence[str],
    *,
    connected: Callable[[], None],
    heard: Callable[[Event], None],
) -> None:
    """Never ends; cancel it. `path` gives where the events are. Each new stream begins with
    `connected()`, for what was missed; errors are logged once until it opens again."""
    params = {"filters": json.dumps({"type": list(kinds)})}
    pause_s, troubled = FIRST_PAUSE_S, False

    def opened(status: int, headers: Mapping[str, str]) -> Callable[[bytes], None]:
        nonlocal pause_s, troubled
        if status != 200:
            raise error_of(status, "", "GET /events", transport.name)
        parser = EventParser()
        connected()
        pause_s, troubled = FIRST_PAUSE_S, False

        def take(data: bytes) -> None:
            for event in parser.feed(data):
                heard(event)

        return take

    while True:
        try:
            stream = transport.stream(await path(), params=params, opened=opened)
            await wait_at_most(clock, STREAM_LIFE_S, Deferred.fromCoroutine(stream))
        except (CumulusError, ValueError) as error:
            if not troubled:
                _log.warn("the engine's events can't be heard: {why}", why=str(error))
            troubled = True
            await sleep(clock, pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        except CancelledError:
            raise
        except Exception:
            _log.failure("taking the engine's events failed, going on")
            await sleep(clock, pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        else:
            # Ended by the engine or by its age. An engine that always hangs up is not hammered.
            await sleep(clock, FIRST_PAUSE_S)
