"""Ctrl-C at whatever instruction of a wait: it is neither lost nor does the loop stand still."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cumulus_client._io_future import wait_all
from cumulus_client._io_thread import IoThread


@pytest.fixture
def io() -> Iterator[IoThread]:
    io = IoThread()
    yield io
    io.stop()


async def answer(after_s: float = 0.0) -> int:
    await asyncio.sleep(after_s)
    return 42


def test_an_outcome(io: IoThread) -> None:
    future = io.run(answer())
    assert future.wait(None) and future.result() == 42
    assert future.wait(None), "again"


def test_a_failure(io: IoThread) -> None:
    async def fails() -> None:
        raise KeyError("x")

    future = io.run(fails())
    assert future.wait(None)
    with pytest.raises(KeyError):
        future.result()


def test_a_deadline(io: IoThread) -> None:
    future = io.run(answer(60))
    assert not future.wait(time.monotonic() + 0.05)
    assert not future.wait(time.monotonic() - 1)
    future.cancel()
    assert future.wait(None) and future.cancelled()


def test_cancelling_reaches_the_coroutine(io: IoThread) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def waits() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    future = io.run(waits())
    assert begun.wait(10)
    future.cancel()
    assert cancelled.wait(10)


def test_a_coroutine_that_cancels_itself(io: IoThread) -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    future = io.run(gives_up())
    assert future.wait(None) and future.cancelled()


def test_told_on_the_loop(io: IoThread) -> None:
    told: list[bool] = []
    future = io.run(answer(), lambda future: told.append(io.is_current() and future.done()))
    future.wait(None)
    io.run(answer()).wait(None)
    assert told == [True]


def test_several(io: IoThread) -> None:
    futures = [io.run(answer(pause_s)) for pause_s in (0.0, 0.05, 60.0)]
    wait_all(futures, 1.0)
    assert [future.done() for future in futures] == [True, True, False]


def test_a_signal_whose_thread_was_not_yet_waiting(io: IoThread) -> None:
    """As when it comes between Python's last look and the kernel's wait: only the flag is set."""
    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        # The kernel gives a thread's own signal to that thread, so the main one sleeps on.
        threading.Timer(
            0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        ).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            io.run(answer(60)).wait(began + 30)
        assert time.monotonic() - began < 20
    finally:
        signal.signal(signal.SIGUSR1, previous)


#: Interrupts itself by its own trace function at each instruction of a wait in turn at which Python
#: looks for signals, and asks whether the loop still answers.
AT_EACH_INSTRUCTION = """
import asyncio, dis, faulthandler, sys, time
faulthandler.dump_traceback_later(60, exit=True)
from cumulus_client._io_thread import IoThread
io = IoThread()
async def soon():
    await asyncio.sleep(0.002)
def waits():
    future = io.run(soon())
    future.wait(None)
    future.result()
LOOKS = {dis.opmap[name] for name in dis.opmap if name.startswith(("CALL", "RESUME", "JUMP_BACK"))}
waits()
at, points = 0, 0
while True:
    left, last = at, {}
    def trace(frame, event, argument):
        global left
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = last.get(frame)
            last[frame] = frame.f_code.co_code[frame.f_lasti]
            if before not in LOOKS:
                return trace
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        waits()
    except KeyboardInterrupt:
        points += 1
    else:
        break
    finally:
        sys.settrace(None)
    # The next would wait for ever if the loop stood still.
    assert io.run(soon()).wait(time.monotonic() + 20), f"the loop stands still after {at}"
    at += 1
print("points", points > 20)
io.stop()
"""


def test_interrupted_at_each_instruction() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AT_EACH_INSTRUCTION],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=os.getcwd(),
    )
    assert done.stdout == "points True\n", done.stderr[-2000:]
