"""`CumulusClient.map`: many jobs of one function over the client's one connection.

Everything of the caller's (the iterables, packing, showing) happens in the caller's thread while
it waits for the next result; the jobs' events wait, bounded, in their streams meanwhile.
"""

import atexit
import contextlib
import os
import queue
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any

from cumulus_client._blocking import begin, client_timeout
from cumulus_client._core import ClientCore, Value
from cumulus_client._io_future import SIGNAL_SLICE_S, IoFuture, wait_all
from cumulus_client._io_thread import IoThread
from cumulus_client._job_stream import Accepted, Ended, Event, Interrupted, JobStream, Journal
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._map_window import MapCall, Outcome
from cumulus_client.display import Display
from cumulus_client.exceptions import ConnectionFailed, CumulusError, ServerError
from cumulus_client.packaging import Package

#: How long the end of a map waits for the daemon to take its jobs' cancellations.
CANCEL_TIMEOUT_S = 5.0
#: Jobs that tell of a lost connection within this time mean the same loss.
INTERRUPTION_S = 1.0
#: How many job ids a line names.
_NAMED = 8

_open: "weakref.WeakSet[Flights]" = weakref.WeakSet()


@atexit.register
def _cancel_at_exit() -> None:
    for flights in list(_open):
        flights.cancel()


class _Flight:
    """One item's job, from its upload to its outcome."""

    def __init__(self, flights: "Flights", index: int, package: Package) -> None:
        self.index = index
        self.package = package
        self.display = flights.make_display()
        self.shown = contextlib.ExitStack()
        self.shown.enter_context(self.display.running())
        self.collector = ResultCollector()
        self.stream: JobStream | None = None
        self.pending: IoFuture[Any] | None = None
        self.ended = False

    @property
    def job_id(self) -> str | None:
        """None until the daemon has accepted it."""
        return None if self.stream is None else self.stream.job_id


class Flights:
    """The jobs of one map that are under way. Owned and used by the thread that iterates."""

    def __init__(
        self, io: IoThread, core: ClientCore, url: str, make_display: Callable[[], Display]
    ) -> None:
        self.make_display = make_display
        self._io = io
        self._core = core
        self._url = url
        self._flights: dict[int, _Flight] = {}
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._process_id = os.getpid()
        self._given_up = False
        self._interrupted_at = float("-inf")
        _open.add(self)

    def begin(self, index: int, package: Package, spec: Mapping[str, Any]) -> None:
        """Uploads the item's package and submits it. Raises ConnectionFailed."""
        flight = _Flight(self, index, package)
        self._flights[index] = flight
        self._await(flight, self._core.submit_followed(package, spec))

    def _await(self, flight: _Flight, coroutine: Coroutine[Any, Any, Any]) -> None:
        index, ready = flight.index, self._ready
        flight.pending = self._io.run(coroutine, lambda _: ready.put(index))

    def step(self, deadline: float | None, *, block: bool) -> tuple[int, Outcome] | None:
        """Waits until something happens to one of the jobs and deals with it; with `block` False
        only with what has happened already. An item's index and outcome when that was its end.
        Raises ClientTimeout, queue.Empty when nothing happened."""
        flight = self._flights.get(self._next_ready(deadline, block))
        if self._given_up:
            raise ConnectionFailed("this Cumulus client is closed", hint="make a new one")
        if flight is None or flight.pending is None:
            return None
        future, flight.pending = flight.pending, None
        try:
            happened = future.result()
            if isinstance(happened, Value):
                return self._land(flight, Outcome(value=happened.value))
            if isinstance(happened, JobStream):
                flight.stream = happened
            else:
                self._event(flight, happened)
                if isinstance(happened, Ended):
                    flight.ended = True
                    self._await(flight, self._value(flight, happened))
                    return None
            assert flight.stream is not None
            self._await(flight, flight.stream.next())
        except CumulusError as error:
            if flight.job_id is not None and not flight.ended:
                # It can't be followed any more, and nobody else knows of it.
                with contextlib.suppress(CumulusError):
                    self._io.run(self._core.cancel(flight.job_id))
            return self._land(flight, Outcome(error=error))
        return None

    def _next_ready(self, deadline: float | None, block: bool) -> int:
        if not block:
            return self._ready.get_nowait()
        while True:
            left_s = SIGNAL_SLICE_S if deadline is None else deadline - time.monotonic()
            try:
                return self._ready.get(timeout=min(max(0.0, left_s), SIGNAL_SLICE_S))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise client_timeout(self._url, None, mapping=True) from None

    def _event(self, flight: _Flight, event: Event | None) -> None:
        if event is None:
            raise ServerError("the job's events ended without its end", job_id=flight.job_id)
        if isinstance(event, Accepted):
            self._core.remember(str(event.job["job_id"]), flight.package)
        elif isinstance(event, Journal):
            flight.collector.feed(event.records)
        elif isinstance(event, Interrupted):
            # It is one connection: said once, not by every job.
            if time.monotonic() - self._interrupted_at > INTERRUPTION_S:
                flight.display.note("connection lost, reconnecting; the jobs go on")
            self._interrupted_at = time.monotonic()
            return
        flight.display.event(event)

    async def _value(self, flight: _Flight, end: Ended) -> Value:
        return Value(await self._core.value(end.job, flight.collector))

    def _land(self, flight: _Flight, outcome: Outcome) -> tuple[int, Outcome]:
        self._flights.pop(flight.index, None)  # `close` on another thread may have taken it
        flight.shown.close()
        if flight.stream is not None:
            with contextlib.suppress(CumulusError):  # closed, and its streams with it
                self._io.run(flight.stream.close())
        return flight.index, outcome

    # --- giving up ---------------------------------------------------------------------------

    def cancel(self, why: str = "") -> None:
        """Cancels every job that is under way, says which, and waits a moment for the daemon to
        have heard it; Ctrl-C meanwhile detaches. `why`: what the line begins with. Idempotent."""
        _open.discard(self)
        self._given_up = True
        self._ready.put(-1)  # whoever waits there on another thread looks again
        flights, self._flights = list(self._flights.values()), {}
        if not flights or self._process_id != os.getpid():
            return
        note = _careful(flights[0].display.note)
        job_ids = [each.job_id for each in flights if each.job_id is not None]
        try:
            cancelling = [self._io.run(self._core.cancel(job_id)) for job_id in job_ids]
            if job_ids:
                note(f"{why}cancelling {_named(job_ids)}")
            for flight in flights:
                self._let_go(flight, note)
        except CumulusError:
            return  # the client is closed
        finally:
            for flight in flights:
                flight.shown.close()
        if self._io.is_current():
            return  # the garbage collector came by there
        try:
            wait_all(cancelling, CANCEL_TIMEOUT_S)
        except KeyboardInterrupt:
            note(f"detached; {_named(job_ids)} may still be running")
            raise
        late = [future for future in cancelling if not future.done()]
        done = [future for future in cancelling if future.done() and not future.cancelled()]
        failed = [future for future in done if future.exception()]
        if late or failed:
            reason = failed[0].exception() if failed else "no answer"
            note(f"cancelling {len(late) + len(failed)} of them failed: {reason}")

    def _let_go(self, flight: _Flight, note: Callable[[str], None]) -> None:
        if flight.pending is not None:
            flight.pending.cancel()  # still uploading: nothing was submitted
        if flight.stream is None:
            return
        if flight.job_id is None:
            begin(self._io, self._core.withdraw(flight.stream, note))
        else:
            self._io.run(flight.stream.close())


def _careful(note: Callable[[str], None]) -> Callable[[str], None]:
    def careful(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever would read it is gone
            note(text)

    return careful


def _named(job_ids: list[str]) -> str:
    told = ", ".join(job_ids[:_NAMED])
    more = f" and {len(job_ids) - _NAMED} more" if len(job_ids) > _NAMED else ""
    if len(job_ids) == 1:
        return f"job {told}"
    return f"{len(job_ids)} jobs: {told}{more}"


def mapped(
    call: MapCall,
    items: Iterator[list[Any]],
    pack: Callable[[list[Any]], Package],
    flights: Flights,
    deadline: float | None,
) -> Generator[Any, None, None]:
    """The results. Its end, however it comes, cancels what is under way. `deadline`:
    `time.monotonic()`."""
    window = call.window()
    broken: Exception | None = None
    why = ""
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                # As many at most: a job that prints without end must not hold up the results.
                for _ in range(window.under_way):
                    if ended := flights.step(deadline, block=False):
                        window.end(*ended)
            if (taken := window.take()) is not None:
                yield call.shown(*taken)
            elif window.finished:
                if broken is not None:
                    raise broken
                return
            elif window.wants_more:
                try:
                    args = next(items)
                except StopIteration:
                    window.no_more()
                    continue
                except Exception as error:  # the caller's iterable's, raised at its place
                    window.no_more()
                    broken = error
                    continue
                index = window.begin()
                try:
                    flights.begin(index, pack(args), call.spec)
                except Exception as error:
                    window.end(index, Outcome(error=error))
            elif ended := flights.step(deadline, block=True):
                window.end(*ended)
    except KeyboardInterrupt:
        why = "interrupted: "
        raise
    finally:
        flights.cancel(why)
