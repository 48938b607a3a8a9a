"""The container's own log: the same bytes in the same order, in few writes."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cumulus_runner.container_log import HELD_BYTES, MAX_BYTES, PAUSE_S, ContainerLog


class Pipes:
    """A log on two pipes; counts what is written to them."""

    def __init__(self, owned: ExitStack) -> None:
        (self.out, out), (self.err, err) = os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)
        for fd in (self.out, out, self.err, err):
            owned.callback(os.close, fd)
        self.log = ContainerLog(out, err)

    def read(self, fd: int) -> bytes:
        try:
            return os.read(fd, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with ExitStack() as owned:
        yield Pipes(owned)


def test_lines_in_quick_succession_wake_the_engine_20_times_a_second(pipes: Pipes) -> None:
    came = []
    for number in range(1000):
        now = number * 0.001
        pipes.log.tick(now)
        pipes.log.out(b"line %d\n" % number, now)
        came.append(pipes.read(pipes.out))
    pipes.log.flush()
    came.append(pipes.read(pipes.out))
    assert b"".join(came) == b"".join(b"line %d\n" % number for number in range(1000))
    assert sum(map(bool, came)) <= 1 + 1.0 / PAUSE_S


def test_a_line_after_a_pause_is_there_at_once_and_what_is_held_in_time(pipes: Pipes) -> None:
    pipes.log.out(b"first\n", 10.0)
    assert pipes.read(pipes.out) == b"first\n"
    pipes.log.out(b"second\n", 10.001)
    assert pipes.read(pipes.out) == b""
    assert pipes.log.wake_at() == 10.0 + PAUSE_S
    pipes.log.tick(10.0 + PAUSE_S)
    assert pipes.read(pipes.out) == b"second\n"
    assert pipes.log.wake_at() == float("inf")


def test_both_streams_keep_their_order_among_each_other(pipes: Pipes, tmp_path: Path) -> None:
    both = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    other = os.dup(both)
    try:
        log = ContainerLog(both, other)
        for number in range(6):
            (log.err if number % 2 else log.out)(b"%d\n" % number, number * 0.001)
        log.note("said so")
        log.last_line("the result")
    finally:
        os.close(both)
        os.close(other)
    assert (tmp_path / "log").read_bytes() == (
        b"0\n1\n2\n3\n4\n5\ncumulus_runner: said so\nthe result\n"
    )


def test_what_is_held_is_bounded_and_so_is_the_copy(pipes: Pipes) -> None:
    taken = 0
    piece = b"x" * (HELD_BYTES // 2)
    for number in range(2 * MAX_BYTES // len(piece)):
        pipes.log.out(piece, number * 1e-6)
        taken += len(pipes.read(pipes.out))
        assert len(pipes.log._held) <= HELD_BYTES
    pipes.log.flush()
    taken += len(pipes.read(pipes.out))
    assert taken == MAX_BYTES
