"""Readers of a job's output: byte for byte, from anywhere, many at a time, as slow as they like."""

import hashlib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json

MakeDaemon = Callable[..., Daemon]

#: Prints the job's id, so that the test can read its output by HTTP.
RUN = """
job = client.submit({NAME}, duration=600)
job.result(timeout=200)
print(json.dumps({"job_id": job.job_id}))
"""


def run(daemon: Daemon, function: str, name: str, after: str = "", timeout_s: float = 200.0) -> str:
    text = HEAD + function + RUN.replace("{NAME}", name) + after
    job_id = last_json(daemon.run(text, timeout_s=timeout_s).stdout)["job_id"]
    assert isinstance(job_id, str)
    return job_id


def http_logs(daemon: Daemon, job_id: str) -> bytes:
    with urllib.request.urlopen(f"{daemon.url}/api/jobs/{job_id}/logs", timeout=60) as response:
        body = response.read()
    assert isinstance(body, bytes)
    return body


def same(found: bytes, expected: bytes) -> None:
    """Without printing megabytes when it isn't."""
    assert len(found) == len(expected)
    assert hashlib.sha256(found).digest() == hashlib.sha256(expected).digest()


def test_binary_invalid_utf8_and_no_final_newline_are_exact(daemon: Daemon) -> None:
    job_id = run(
        daemon,
        """
def binary():
    import os, sys
    data = bytes(range(256)) * 2000 + b"\\r\\n\\0\\xff\\xfe\\xc3(" + "ü€😀".encode()[:-1]
    while data:
        data = data[os.write(1, data):]
    sys.stdout.flush()
    os.write(1, b"no newline \\x80")
""",
        "binary",
    )
    expected = bytes(range(256)) * 2000 + b"\r\n\0\xff\xfe\xc3(" + "ü€😀".encode()[:-1]
    same(http_logs(daemon, job_id), expected + b"no newline \x80")


def test_a_line_of_10_mb_is_exact(daemon: Daemon) -> None:
    job_id = run(
        daemon,
        """
def long_line():
    print("".join(str(n % 10) for n in range(10_000_000)), end="")
""",
        "long_line",
        after="""
text = "".join(job.logs())
assert text == "".join(str(n % 10) for n in range(10_000_000)), len(text)
print(json.dumps({"job_id": job.job_id}))
""",
    )
    same(http_logs(daemon, job_id), b"0123456789" * 1_000_000)


@pytest.mark.slow
def test_a_million_lines_are_exact(daemon: Daemon) -> None:
    job_id = run(
        daemon,
        """
def lines():
    for number in range(1_000_000):
        print(number)
""",
        "lines",
    )
    same(http_logs(daemon, job_id), b"".join(b"%d\n" % n for n in range(1_000_000)))


def test_readers_begin_where_they_say_and_many_see_the_same(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
import threading

def talk():
    import time
    for number in range(300):
        print(number)
        time.sleep(0.005)

job = client.submit(talk, duration=600)
first = []
for text in job.logs():
    first.append(text)
    if "50" in "".join(first):
        break
middle = job.view()["journal"]["end_offset"]
seen = {}

def read(name, offset):
    seen[name] = "".join(client.attach(job.job_id).logs(from_offset=offset))

readers = [threading.Thread(target=read, args=(n, 0)) for n in range(12)]
readers += [threading.Thread(target=read, args=(n, middle)) for n in range(100, 104)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join(60)
whole = "".join(f"{n}\\n" for n in range(300))
assert all(seen[n] == whole for n in range(12)), seen
rest = {seen[n] for n in range(100, 104)}
assert len(rest) == 1 and whole.endswith(rest.pop()), rest
assert 0 < len(seen[100]) < len(whole)
end = job.view()["journal"]["end_offset"]
assert "".join(job.logs(from_offset=end)) == ""
assert "".join(job.logs(follow=False, from_offset=middle)) == seen[100]
try:
    "".join(job.logs(from_offset=1))
except Exception as error:
    print(json.dumps({"job_id": job.job_id, "refused": str(error)}))
"""
    )
    assert "inside a record" in last_json(done.stdout)["refused"]


def memory_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_stalled_readers_cost_bounded_memory_and_lose_nothing(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    assert daemon.process is not None
    before = memory_bytes(daemon.process.pid)
    done = daemon.run(
        HEAD
        + """
def much():
    import os
    line = b"x" * 999 + b"\\n"
    for number in range(600):
        os.write(1, line * 100)

job = client.submit(much, duration=600)
stalled = [job.logs() for _ in range(5)]
begun = [next(reader) for reader in stalled]
job.result(timeout=100)
status = open("/proc/{PID}/status").read()
rss = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
sizes = [len(text) + sum(map(len, reader)) for text, reader in zip(begun, stalled)]
print(json.dumps({"rss": int(rss.split()[1]) * 1024, "sizes": sizes}))
""".replace("{PID}", str(daemon.process.pid)),
        timeout_s=200,
    )
    told = last_json(done.stdout)
    assert told["sizes"] == [60_000_000] * 5
    assert told["rss"] - before < 60_000_000, "five readers of 60 MB each stood still"
    daemon.wait_nothing_left()


def test_over_the_cap_head_and_tail_stay_and_the_gap_is_told_once(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra=f"jobs: {{journal_cap_bytes: {1 << 20}}}\n").start()
    job_id = run(
        daemon,
        """
def much():
    import os, time
    for number in range(60_000):
        os.write(1, b"%08d " % number + b"y" * 90 + b"\\n")
        if number % 200 == 0:
            time.sleep(0.01)  # segments begin when those before them are on disk
""",
        "much",
        after="""
stream = client._open_stream(job.job_id)
kinds = []
while (event := stream.next(None)) is not None:
    kinds += [record.kind.name for record in getattr(event, "records", [])]
stream.close()
assert kinds.count("GAP") == 1, kinds.count("GAP")
assert kinds[-1] == "EXIT"
print(json.dumps({"job_id": job.job_id}))
""",
    )
    whole = b"".join(b"%08d " % number + b"y" * 90 + b"\n" for number in range(60_000))
    body = http_logs(daemon, job_id)
    assert body.count(b"bytes of the journal are not kept here]") == 1
    head, _, rest = body.partition(b"\n[")
    tail = rest.partition(b"]\n")[2]
    assert len(head) > 100_000 and whole.startswith(head)
    assert len(tail) > 200_000 and whole.endswith(tail)
    assert len(body) < 3_000_000, "of 6 MB; segments are whole"
    assert daemon.job(job_id)["journal"]["pruned"] is False
    daemon.wait_nothing_left()
