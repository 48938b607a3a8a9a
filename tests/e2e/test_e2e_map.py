"""`map` of both clients, over real jobs on the local platform."""

import json
import signal
import time
from typing import Any

from tests.e2e.harness import Daemon
from tests.next_line import next_line

HEAD = """\
import asyncio, itertools, json, sys, time
from cumulus_client import *
client = CumulusClient("{URL}")
def power(base, exponent=2):
    print(f"{base} to the {exponent}")
    return base ** exponent
def picky(n):
    if n == 3:
        raise ValueError("three")
    return n
def waits(seconds):
    import time
    time.sleep(seconds)
    return seconds
SMALL = {"gpu_memory": 0.1, "duration": 60}
"""


def told(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


def test_values_come_in_order_and_output_in_whole_lines(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
three = list(client.map(power, [1, 2, 3], **SMALL))
two = list(client.map(power, [2, 3], (3, 3, 3), **SMALL))
with_kwargs = list(client.map(power, [5], kwargs={"exponent": 3}, **SMALL))
nothing = list(client.map(power, []))
print(json.dumps([three, two, with_kwargs, nothing]))
"""
    )
    assert told(done.stdout) == [[1, 4, 9], [8, 27], [125], []]
    lines = done.stdout.splitlines()[:-1]
    assert sorted(lines[:3]) == [f"{base} to the 2" for base in (1, 2, 3)]
    for job in daemon.jobs()[:3]:
        assert f"[cumulus] job {job['job_id']} accepted" in done.stderr


def test_an_endless_iterable_is_read_as_results_are_asked_for(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
read = []
def endless():
    for number in itertools.count():
        read.append(number)
        yield number
results = client.map(power, endless(), max_in_flight=3, **SMALL)
first = [next(results) for _ in range(5)]
results.close()
while client.list_jobs(active=True):
    time.sleep(0.05)
ends = [job["status"] for job in client.list_jobs(limit=len(read))]
print(json.dumps([first, len(read), sorted(set(ends))]))
"""
    )
    first, read, ends = told(done.stdout)
    assert first == [0, 1, 4, 9, 16]
    assert 5 <= read <= 5 + 2 * 3
    assert set(ends) <= {"cancelled", "completed"} and "completed" in ends


def test_errors_come_at_their_place(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
got = []
try:
    for value in client.map(picky, [1, 2, 3, 4], **SMALL):
        got.append(value)
except JobFailed as error:
    got.append(error.error_type)
values = list(client.map(picky, [3, 4], return_exceptions=True, **SMALL))
pairs = sorted(client.map(picky, [4, 5, 6], ordered=False, max_in_flight=2, **SMALL))
def breaks():
    yield 1
    raise KeyError("mine")
mine = []
try:
    for value in client.map(picky, breaks(), **SMALL):
        mine.append(value)
except KeyError as error:
    mine.append(str(error))
try:
    list(client.map(picky, [1], [2], **SMALL))
except TypeError as error:
    mine.append(str(error))
print(json.dumps([got, [type(values[0]).__name__, values[1]], pairs, mine]))
"""
    )
    got, values, pairs, mine = told(done.stdout)
    assert got == [1, 2, "ValueError"]
    assert values == ["JobFailed", 4]
    assert pairs == [[0, 4], [1, 5], [2, 6]]
    assert mine[:2] == [1, "'mine'"] and "picky(): too many positional arguments" in mine[2]


def test_the_first_to_end_comes_first_when_order_does_not_matter(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
pairs = list(client.map(waits, [4, 0.1], ordered=False, **SMALL))
timed_out = []
try:
    list(client.map(waits, [60], timeout=1.5, **SMALL))
except ClientTimeout as error:
    timed_out.append(str(error))
print(json.dumps([pairs, timed_out, [j["status"] for j in client.list_jobs(limit=1)]]))
"""
    )
    pairs, timed_out, _ = told(done.stdout)
    assert pairs == [[1, 0.1], [0, 4]]
    assert "before map() had the next result" in timed_out[0]
    assert daemon.wait_job(daemon.jobs()[0]["job_id"], "ended")["status"] == "cancelled"


def test_the_async_one_does_the_same(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
async def numbers():
    for number in itertools.count():
        yield number
async def main():
    async with AsyncCumulusClient("{URL}") as client:
        three = [value async for value in client.map(power, [1, 2, 3], **SMALL)]
        first = []
        results = client.map(power, numbers(), (3, 3, 3, 3), max_in_flight=2, **SMALL)
        async for value in results:
            first.append(value)
        got = []
        try:
            async for value in client.map(picky, [1, 3, 4], **SMALL):
                got.append(value)
        except JobFailed as error:
            got.append(error.error_type)
        values = [v async for v in client.map(picky, [3, 4], return_exceptions=True, **SMALL)]
        pairs = [p async for p in client.map(waits, [4, 0.1], ordered=False, **SMALL)]
        try:
            async for _ in client.map(waits, [60], timeout=1.5, **SMALL):
                pass
        except ClientTimeout as error:
            got.append("timeout")
        left = client.map(waits, [60, 60], **SMALL)
        asking = asyncio.ensure_future(anext(left))
        while len(await client.list_jobs(active=True)) < 2:
            await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        await left.aclose()
        print(json.dumps([three, first, got, [type(values[0]).__name__, values[1]], pairs]))
asyncio.run(main())
"""
    )
    three, first, got, values, pairs = told(done.stdout)
    assert three == [1, 4, 9]
    assert first == [0, 1, 8, 27]
    assert got == [1, "ValueError", "timeout"]
    assert values == ["JobFailed", 4]
    assert pairs == [[1, 0.1], [0, 4]]
    for job in daemon.jobs()[:3]:
        assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_ctrl_c_cancels_all_that_is_under_way_and_says_which(daemon: Daemon) -> None:
    process = daemon.begin(
        HEAD
        + """
try:
    for value in client.map(waits, [0.1, 60, 60], **SMALL):
        print(value, flush=True)
except KeyboardInterrupt:
    print("interrupted")
    client.close()
"""
    )
    with process:
        assert process.stdout is not None
        assert next_line(process) == "0.1\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    assert out == "interrupted\n", err
    two = daemon.jobs()[:2]
    line = next(line for line in err.splitlines() if "interrupted: cancelling" in line)
    assert line.startswith("[cumulus] interrupted: cancelling 2 jobs: ")
    assert all(job["job_id"] in line for job in two)
    for job in two:
        assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_a_map_that_is_left_over_is_cancelled_at_exit(daemon: Daemon) -> None:
    for ending in ("", "client.close()", "raise SystemExit(3)"):
        done = daemon.run(
            HEAD
            + f"""
results = client.map(waits, [0.1, 60], **SMALL)
print(next(results))
{ending}
""",
            check=False,
        )
        assert done.stdout == "0.1\n", done.stderr
        assert "[cumulus] cancelling job" in done.stderr, (ending, done.stderr)
        assert daemon.wait_job(daemon.jobs()[0]["job_id"], "ended")["status"] == "cancelled"


def test_an_async_map_that_is_left_is_cancelled_with_its_client(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
async def main():
    async with AsyncCumulusClient("{URL}") as client:
        async for value in client.map(waits, [0.1, 60, 60], **SMALL):
            print(value)
            break
asyncio.run(main())
"""
    )
    assert done.stdout == "0.1\n", done.stderr
    assert "failed" not in done.stderr
    for job in daemon.jobs()[:2]:
        assert f"[cumulus] cancelling job {job['job_id']}" in done.stderr, done.stderr
        assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_ctrl_c_in_the_loops_own_body(daemon: Daemon) -> None:
    """No result is waited for when it comes."""
    process = daemon.begin(
        HEAD
        + """
def stubborn(seconds):
    import signal, time
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(seconds)
    return seconds
for value in client.map(stubborn, [0.1, 60], **SMALL):
    print(value, flush=True)
    time.sleep(60)
"""
    )
    with process:
        assert process.stdout is not None
        assert next_line(process) == "0.1\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=40)
    assert process.returncode == -signal.SIGINT, err
    job = daemon.jobs()[0]
    assert f"[cumulus] cancelling job {job['job_id']}" in err
    assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_results_come_while_another_job_prints_without_end(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def chatters(seconds):
    import time
    end = time.time() + seconds
    while time.time() < end:
        print("x" * 1000)
    return seconds
results = client.map(chatters, [60, 0, 0, 0], ordered=False, max_in_flight=2, **SMALL)
print("\\nRESULTS", json.dumps([next(results) for _ in range(3)]))
results.close()
"""
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULTS "))
    assert sorted(json.loads(line.removeprefix("RESULTS "))) == [[1, 0], [2, 0], [3, 0]]
