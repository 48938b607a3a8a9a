"""Callers who give up before the daemon answers, and those who submit the same all at once."""

import socket
from pathlib import Path

from tests.unit.client.client_harness import HEAD, Relay, run


def test_the_same_from_many_threads_and_tasks(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
import asyncio
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    jobs = list(pool.map(lambda _: submit("plain"), range(8)))
others = [CumulusClient(client.server_url) for _ in range(4)]
def g(): pass
with ThreadPoolExecutor(4) as pool:
    jobs += list(pool.map(lambda c: c.submit(g), others))
assert len({job.job_id for job in jobs}) == 12
async def many():
    async with AsyncCumulusClient(client.server_url) as c:
        def_ = [c.submit(h, args=[7]) for _ in range(8)]
        return await asyncio.gather(*def_)
def h(x): pass
assert len(asyncio.run(many())) == 8
c = counts()
for one in (*others, client):
    one.close()
""",
    )
    assert done.returncode == 0, done.stderr


def test_a_job_that_is_accepted_after_the_client_gave_up_is_cancelled(
    relay: Relay, tmp_path: Path
) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
from cumulus_client.display import Display
from cumulus_client._options import make_spec
client.get_server_info()
package = Package(name="slow", data=b"x" * 90)
try:
    client._follow(package, make_spec(gpu_memory=1, duration=1), 0.5, Display())
except ClientTimeout as error:
    assert str(error).startswith("Client timeout exceeded before " + client.server_url), error
    assert "may have been accepted; it is cancelled" in error.hint
else:
    raise AssertionError("not given up")
with CumulusClient(client.server_url) as other:
    other.list_workers()  # now the daemon answers
client.close()
with CumulusClient(client.server_url) as other:
    assert [job["status"] for job in other.list_jobs()] == ["cancelled"]
""",
    )
    assert done.returncode == 0, done.stderr
    assert "[cumulus] job job-1 had been accepted; it is cancelled\n" in done.stderr


def test_so_it_is_after_ctrl_c_without_close(relay: Relay, tmp_path: Path) -> None:
    for how in ("submit", "follow"):
        path = tmp_path / f"{how}.py"
        done = run(
            path,
            HEAD.format(url=relay.url)
            + f"""
import signal
other = CumulusClient(client.server_url)
before = len(other.list_jobs())  # connected: the relay breaks connections during the upload
def interrupt():
    while len(other.list_jobs()) == before:
        time.sleep(0.02)
    other.close()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    {how}("slow")
except KeyboardInterrupt:
    print("interrupted")
    with CumulusClient(client.server_url) as other:
        other.list_workers()
""",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "interrupted\n", done.stderr
        assert "the job may have been accepted" in done.stderr
        assert "had been accepted; it is cancelled" in done.stderr


def test_ctrl_c_just_as_a_followed_job_is_accepted_cancels_it(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
from cumulus_client._blocking import Interruption
from cumulus_client._blocking_stream import BlockingStream
real = BlockingStream.next
def interrupted_next(self, deadline):
    while self.stream.job_id is None:
        real(self, deadline)
    raise KeyboardInterrupt
BlockingStream.next = interrupted_next
def before_it_was_heard(self, job_id, error):
    assert job_id is not None
    raise error  # as for a job_id that was None when it was looked at
Interruption.interrupted = before_it_was_heard
try:
    follow("pending")
except KeyboardInterrupt:
    client.close()
    with CumulusClient(client.server_url) as other:
        assert [job["status"] for job in other.list_jobs()] == ["cancelled"]
    print("cancelled")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cancelled\n"
    assert "interrupted: cancelling job job-1\n" in done.stderr


def test_ctrl_c_when_the_answer_to_a_submit_is_there_cancels_it(
    relay: Relay, tmp_path: Path
) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
from cumulus_client._io_future import IoFuture
client.get_server_info()
real = IoFuture.wait
def interrupted_wait(self, deadline):
    if deadline is not None:
        return real(self, deadline)
    assert real(self, deadline) and self.result()
    raise KeyboardInterrupt
IoFuture.wait = interrupted_wait
try:
    submit("pending")
except KeyboardInterrupt:
    IoFuture.wait = real
    client.close()
    with CumulusClient(client.server_url) as other:
        assert [job["status"] for job in other.list_jobs()] == ["cancelled"]
    print("cancelled")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cancelled\n"


def test_a_task_that_is_cancelled_when_its_answer_is_there_takes_it_back(
    relay: Relay, tmp_path: Path
) -> None:
    done = run(
        tmp_path / "u.py",
        f"""
import asyncio
from cumulus_client import *
from cumulus_client import _async_session
def f(): pass
async def main():
    async with AsyncCumulusClient({relay.url!r}) as client:
        await client.list_jobs()
        task = asyncio.create_task(client.submit(f, options={{"name": "pending"}}))
        real, _async_session._wake = _async_session._wake, lambda waiter: task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
        _async_session._wake = real
    async with AsyncCumulusClient({relay.url!r}) as client:
        assert [job["status"] for job in await client.list_jobs()] == ["cancelled"]
asyncio.run(main())
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cancelled\n"
    assert "had been accepted; it is cancelled" in done.stderr


def test_a_cancelled_task_takes_its_submission_back(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        f"""
import asyncio
from cumulus_client import *
def f(): pass
async def main():
    async with AsyncCumulusClient({relay.url!r}) as client:
        for number, face in enumerate((client.submit, client.run), 1):
            task = asyncio.create_task(face(f, options={{"name": "slow"}}))
            while len(await client.list_jobs()) < number:
                await asyncio.sleep(0.02)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                await client.list_workers()
    async with AsyncCumulusClient({relay.url!r}) as client:
        assert {{job["status"] for job in await client.list_jobs()}} == {{"cancelled"}}
asyncio.run(main())
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("had been accepted; it is cancelled") == 2


def test_a_timeout_before_anything_was_submitted_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run(
            tmp_path / "u.py",
            f"""
from cumulus_client import *
def f(): pass
with CumulusClient({url!r}) as client:
    try:
        client.run(f, timeout=0.3)
    except ClientTimeout as error:
        assert {url!r} in str(error) and "no job was submitted" in str(error), error
    else:
        raise AssertionError("not given up")
""",
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_connection_that_comes_as_its_caller_gives_up_is_closed(tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        """
import asyncio
from cumulus_client._transport import open_transport
class Transport:
    aborted = False
    def abort(self):
        self.aborted = True
async def main():
    transport, loop = Transport(), asyncio.get_running_loop()
    async def connect(*args, **kwargs):
        loop.call_soon(opening.cancel)  # before the task that waits for this goes on
        return transport, None
    loop.create_connection = connect
    opening = asyncio.ensure_future(open_transport("ws://h:1/ws", api_key=None, shown_url="h"))
    await asyncio.wait([opening])
    assert opening.cancelled() and transport.aborted
asyncio.run(main())
""",
    )
    assert done.returncode == 0, done.stderr
