"""What the code tells of its progress, and what it may send besides."""

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runner_kit import JobFolder

from cumulus_runner import code_socket
from cumulus_runner.code_socket import CodeSocket
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]

TELL = """
import json, os, socket, time
folder = os.open(os.environ["CUMULUS_CONTROL_DIR"], os.O_PATH)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(f"/proc/self/fd/{folder}/runtime.sock")
def tell(fraction, message):
    sock.send(json.dumps({"t": "progress", "fraction": fraction, "message": message}).encode())
"""


@pytest.fixture
def code(tmp_path: Path) -> Iterator[CodeSocket]:
    made = CodeSocket(str(tmp_path))
    yield made
    made.close()


def send(folder: Path, *datagrams: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        handle = os.open(folder, os.O_PATH)
        try:
            sender.connect(f"/proc/self/fd/{handle}/{code_socket.NAME}")
        finally:
            os.close(handle)
        for data in datagrams:
            sender.send(data)


def test_progress_becomes_records_and_the_last_one_always(new_job: NewJob) -> None:
    job = new_job().function(
        TELL
        + "def f():\n"
        + "    for n in range(1, 101): tell(n / 100, f'step {n}'); time.sleep(0.002)\n"
        + "    print('told')\n"
    )
    assert job.run()["outcome"] == "completed"
    told = job.jsons(Kind.PROGRESS)
    assert told[-1] == {"fraction": 1.0, "message": "step 100"}
    fractions = [one["fraction"] for one in told]
    assert fractions == sorted(fractions)
    times = [record.time_us for record in job.records() if record.kind is Kind.PROGRESS]
    assert len(times) >= 2
    assert all(after - before >= 90_000 for before, after in itertools.pairwise(times[:-1]))


def test_a_flood_and_garbage_harm_nothing(new_job: NewJob) -> None:
    job = new_job().function(
        TELL
        + "def f():\n"
        + "    sock.setblocking(False)\n"
        + "    for n in range(5000):\n"
        + "        for data in (b'x' * 8192, b'{', b'[1]', b'', b'{\"t\": 5}', b'[' * 8000):\n"
        + "            try: sock.send(data)\n"
        + "            except BlockingIOError: pass\n"
        + "    sock.setblocking(True)\n"
        + "    tell(None, 'done')\n"
        + "    return 7\n"
    )
    assert job.run()["outcome"] == "completed"
    assert job.jsons(Kind.PROGRESS)[-1] == {"fraction": None, "message": "done"}
    assert json.loads(job.output(Kind.RESULT)) == 7


def test_a_folder_with_a_long_path_has_its_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    for _ in range(2):  # one that a runner before left is replaced
        code = CodeSocket(str(folder))
        send(folder, b'{"t": "progress", "fraction": 0.5, "message": "half"}')
        code.receive()
        assert code.take_progress(0.0) == {"fraction": 0.5, "message": "half"}
        code.close()


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [
        *[("0.25", 0.25), ("1", 1.0), ("7", 1.0), ("-1", 0.0), ("1" + "0" * 400, 1.0)],
        *[("Infinity", 1.0), ("true", None), ("NaN", None), ('"a"', None), ("null", None)],
    ],
)
def test_a_fraction_is_one(
    tmp_path: Path, code: CodeSocket, fraction: str, kept: float | None
) -> None:
    send(tmp_path, f'{{"t": "progress", "fraction": {fraction}}}'.encode())
    code.receive()
    assert code.take_progress(0.0) == {"fraction": kept, "message": ""}


def test_a_message_is_bounded_and_whole_text(tmp_path: Path, code: CodeSocket) -> None:
    message = "a\0\ud800" + "x" * 1000
    send(tmp_path, json.dumps({"t": "progress", "message": message}).encode())
    code.receive()
    told = code.take_progress(0.0)
    assert told is not None
    assert told["message"].startswith("a\\0?x")
    assert len(told["message"]) <= code_socket.MAX_MESSAGE_CHARS + 1


def test_the_latest_wins_and_what_could_not_be_recorded_comes_back(
    tmp_path: Path, code: CodeSocket
) -> None:
    assert code.wake_at() == float("inf")
    send(tmp_path, b'{"t": "progress", "message": "1"}', b'{"t": "progress", "message": "2"}')
    code.receive()
    first = code.take_progress(10.0)
    assert first == {"fraction": None, "message": "2"}
    code.put_back(first)
    assert code.wake_at() == 10.0 + code_socket.PROGRESS_INTERVAL_S
    assert code.take_progress(10.05) is None
    assert code.take_progress(10.05, last=True) == first
    send(tmp_path, b'{"t": "progress", "message": "3"}')
    code.receive()
    code.put_back(first)
    assert code.take_progress(11.0) == {"fraction": None, "message": "3"}


def test_a_checkpoint_is_told_once(tmp_path: Path, code: CodeSocket) -> None:
    assert not code.take_checkpoint()
    send(tmp_path, b'{"t": "checkpoint"}', b'{"t": "checkpoint"}')
    code.receive()
    assert code.take_checkpoint()
    assert not code.take_checkpoint()
