"""What threads give an event loop to do comes there, all of it, in its order."""

import asyncio
import functools
import threading
import time

import pytest

from cumulus_client._errands import Errands
from cumulus_client._io_thread import IoThread


class CountedLoop(asyncio.SelectorEventLoop):
    """Counts its wake-ups."""

    wake_ups = 0

    def call_soon_threadsafe(self, *args: object, **kwargs: object) -> asyncio.Handle:  # type: ignore[override]
        self.wake_ups += 1
        return super().call_soon_threadsafe(*args, **kwargs)  # type: ignore[arg-type]


def test_many_at_once_wake_the_loop_once() -> None:
    loop = CountedLoop()
    errands = Errands(loop)
    done: list[int] = []
    for number in range(100):
        errands.add(functools.partial(done.append, number))
    loop.call_soon(loop.call_later, 0.01, loop.stop)
    loop.run_forever()
    assert (done, loop.wake_ups) == (list(range(100)), 1)
    errands.add(functools.partial(done.append, 100))
    errands.add(loop.stop)
    loop.run_forever()
    assert (done[100:], loop.wake_ups) == ([100], 2)
    loop.close()


def test_none_is_lost_between_threads() -> None:
    count, threads = 2_000, 4
    loop = asyncio.new_event_loop()
    errands = Errands(loop)
    done: list[tuple[int, int]] = []

    def one(which: int, number: int) -> None:
        done.append((which, number))
        if len(done) == count * threads:
            loop.stop()

    def give(which: int) -> None:
        for number in range(count):
            errands.add(functools.partial(one, which, number))

    workers = [threading.Thread(target=give, args=(which,)) for which in range(threads)]
    for each in workers:
        each.start()
    loop.call_later(120, loop.stop)
    loop.run_forever()
    for each in workers:
        each.join()
    loop.close()
    for which in range(threads):
        assert [number for who, number in done if who == which] == list(range(count))


def test_what_an_errand_raises_keeps_no_other_from_its_turn() -> None:
    loop = asyncio.new_event_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    errands = Errands(loop)
    errands.add(lambda: 1 / 0)
    errands.add(loop.stop)
    loop.run_forever()
    loop.close()
    assert isinstance(told[0]["exception"], ZeroDivisionError)


def test_ctrl_c_while_waking_leaves_the_next_one_to_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.new_event_loop()
    errands = Errands(loop)
    done: list[int] = []

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            errands.add(functools.partial(done.append, 1))
    errands.add(functools.partial(done.append, 2))
    errands.add(loop.stop)
    loop.run_forever()
    loop.close()
    assert done == [1, 2]


def test_ctrl_c_while_waking_strands_no_other_thread_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was added meanwhile, and relied on that wake-up."""
    loop = asyncio.new_event_loop()
    errands = Errands(loop)
    done: list[int] = []
    real = loop.call_soon_threadsafe

    def interrupted(*args: object) -> None:
        monkeypatch.setattr(loop, "call_soon_threadsafe", real)
        errands.add(functools.partial(done.append, 2))
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        errands.add(functools.partial(done.append, 1))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert done == [1, 2]


def test_what_is_handed_over_just_before_the_end_is_told_of_it() -> None:
    io = IoThread()
    blocked, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        go_on.wait(60)

    first = io.run(block())
    assert blocked.wait(60)
    last = io.run(asyncio.sleep(3600))
    ending = threading.Thread(target=io.stop)
    ending.start()
    while io.started:
        time.sleep(0.01)
    go_on.set()
    ending.join(60)
    assert first.wait(time.monotonic() + 60)
    assert last.wait(time.monotonic() + 10) and last.cancelled()


def test_a_closed_loop_is_told() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    errands = Errands(loop)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            errands.add(print)
