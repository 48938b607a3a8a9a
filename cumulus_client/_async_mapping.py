"""`AsyncCumulusClient.map`: one task per item, on the caller's loop."""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any

from cumulus_client._blocking import client_timeout
from cumulus_client._map_window import MapCall, Outcome, Window


async def zipped(
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
) -> AsyncIterator[list[Any]]:
    """The positional arguments of each call, as of the built-in `map`."""
    iterators: list[Iterator[Any] | AsyncIterator[Any]] = [
        aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in iterables
    ]
    while True:
        values = []
        for each in iterators:
            try:
                value = await anext(each) if isinstance(each, AsyncIterator) else next(each)
            except (StopIteration, StopAsyncIteration):
                return
            values.append(value)
        yield values


async def mapped(
    call: MapCall,
    items: AsyncIterator[list[Any]],
    run: Callable[[list[Any]], Coroutine[Any, Any, Any]],
    url: str,
    deadline: float | None,
    tasks: set[asyncio.Task[Any]],
) -> AsyncGenerator[Any, None]:
    """The results. Its end, however it comes, cancels what is under way. `deadline`:
    `time.monotonic()`. `tasks`: has the jobs' tasks while they go on, for others to cancel."""
    window = call.window()
    running: dict[asyncio.Task[Any], int] = {}
    pull: asyncio.Task[list[Any]] | None = None
    broken: BaseException | None = None
    try:
        while True:
            if (taken := window.take()) is not None:
                yield call.shown(*taken)
                _land(window, running, [task for task in running if task.done()])
                continue
            if window.finished:
                if broken is not None:
                    raise broken
                return
            if window.wants_more and pull is None:
                pull = asyncio.ensure_future(_pulled(items))
            waited_for = [*running, pull] if pull is not None else [*running]
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(
                waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise client_timeout(url, None, mapping=True)
            if pull is not None and pull.done():
                done.discard(pull)
                pulled, pull = pull, None
                error = pulled.exception()
                if error is not None:
                    window.no_more()
                    broken = None if isinstance(error, StopAsyncIteration) else error
                else:
                    task = asyncio.ensure_future(run(pulled.result()))
                    running[task] = window.begin()
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            _land(window, running, [task for task in done if task in running])
    finally:
        rest = [*running, pull] if pull is not None else [*running]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)  # each is bounded
        for task in rest:
            if not task.cancelled():
                task.exception()  # nobody wants it any more


async def _pulled(items: AsyncIterator[list[Any]]) -> list[Any]:
    return await anext(items)


def _land(
    window: Window, running: dict[asyncio.Task[Any], int], done: list[asyncio.Task[Any]]
) -> None:
    for task in done:
        index = running.pop(task)
        if task.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = task.exception()
        window.end(index, Outcome(error=error) if error else Outcome(value=task.result()))
