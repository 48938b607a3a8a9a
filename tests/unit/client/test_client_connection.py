"""The client against the real router, over real sockets.

The client's asyncio Autobahn and this process's Twisted one can't share a process, so users'
scripts run in one of their own; what they print is what is asserted on.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.client.client_harness import HEAD, TIMEOUT_S, Relay, environment, run


def expected_output(kind: str) -> str:
    return "".join(f"line {n} é\n" for n in range(2000) if (n % 3 == 0) == (kind == "stderr"))


def test_a_followed_job_shows_all_of_its_output_and_gives_its_value(
    relay: Relay, tmp_path: Path
) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + "v = follow('plain')\nassert v == {'a': 1}, v\nclient.close()\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected_output("stdout")
    lines = done.stderr.splitlines(keepends=True)
    assert "".join(li for li in lines if not li.startswith("[cumulus] ")) == expected_output(
        "stderr"
    )
    status = [li for li in lines if li.startswith("[cumulus] ")]
    assert status[0] == "[cumulus] job job-1 accepted\n"
    assert status[-1] == "[cumulus] completed\n"


def test_broken_connections_lose_and_double_no_line(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url) + "v = follow('cut')\nassert v == {'a': 1}\nc = counts()\n"
        "assert c['cumulus.job.submit'] == 1, c\nassert c['cumulus.job.attach'] == 3, c\n"
        "assert client.submit(f, name='cut').result() == {'a': 1}\n"
        "text = ''.join(client.submit(f, name='cut').logs())\n"
        "assert text == ''.join(f'line {n} é\\n' for n in range(2000)), len(text)\n"
        "client.close()\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected_output("stdout")
    assert done.stderr.count("connection lost, reconnecting") == 3


def test_a_submit_whose_answer_was_lost_is_one_job(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + "job = submit('lost-answer')\nassert job.result() == {'a': 1}\n"
        "assert [j['job_id'] for j in client.list_jobs()] == ['job-1']\n"
        "follow('plain')\nsubmit('plain')\nc = counts()\n"
        "assert c['cumulus.job.submit'] == 4, c\n"
        "assert not [name for name in c if '.package.' in name], 'they came with their jobs'\n"
        "client.close()\n",
    )
    assert done.returncode == 0, done.stderr


def test_a_daemon_that_takes_no_code_with_a_job_gets_an_upload(
    start_relay: Callable[..., Relay], tmp_path: Path
) -> None:
    relay = start_relay("--before-code")
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + "job = submit('lost-answer')\nassert job.result() == {'a': 1}\n"
        "assert [j['job_id'] for j in client.list_jobs()] == ['job-1']\n"
        "c = counts()\nassert c['cumulus.job.submit'] == 3, c\n"
        "assert c['cumulus.package.put'] >= 3, c\nassert c['cumulus.package.commit'] == 1, c\n"
        "submit('plain')\nc2 = counts()\n"
        "assert c2['cumulus.package.put'] == c['cumulus.package.put'], 'uploaded twice'\n"
        "assert c2['cumulus.job.submit'] == 4, 'it was tried once'\n"
        "follow('plain')\nassert counts()['cumulus.package.commit'] == 2\n"
        "client.close()\n",
    )
    assert done.returncode == 0, done.stderr


def test_slow_reader_is_bounded_and_loses_nothing(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        "import cumulus_client._core as core\ncore.MAX_WAITING_BYTES = 1 << 20\n"
        + HEAD.format(url=relay.url)
        + """
job = submit("big")
stream = client._open_stream(job.job_id)
seen, most, text = [], 0, []
from cumulus_client._job_stream import Journal
while (event := stream.next(None)) is not None:
    if isinstance(event, Journal):
        if len(seen) < 5:
            time.sleep(0.2)
        most = max(most, stream.stream._waiting.waiting_bytes)
        seen += [r.payload[:7].decode() for r in event.records if r.kind == 1]
stream.close()
assert seen == [f"{n:07d}" for n in range(256)], len(seen)
assert most <= 1 << 20, most
c = counts()
assert c["cumulus.job.attach"] > 1, "never over the bound"
assert job.result() == {"a": 1}
client.close()
""",
    )
    assert done.returncode == 0, done.stderr


def test_errors_say_what_is_wrong(start_relay: Callable[..., Relay], tmp_path: Path) -> None:
    relay = start_relay("--token")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = run(
            tmp_path / "u.py",
            f"""
from cumulus_client import *
def f(): pass
def says(kind, url, key, *words):
    with CumulusClient(url, key) as client:
        client._core.connection._connect_timeout_s = 3.0
        try:
            client.get_server_info()
        except kind as error:
            assert all(word in str(error) for word in words), str(error)
            assert 'hint:' in str(error)
        else:
            raise AssertionError('no error')
says(ConnectionFailed, {refused!r}, None, 'refused', {refused!r})
says(ConnectionFailed, {relay.url + "/elsewhere"!r}, None, 'not as a Cumulus daemon', '404')
says(ConnectionFailed, {relay.url.replace("http:", "https:")!r}, None, 'does not speak https')
says(NotAuthenticated, {relay.url!r}, None, 'wants an API key')
says(NotAuthenticated, {relay.url!r}, 'wrong', 'does not accept this API key')
with CumulusClient({relay.url!r} + '/', 'secret') as client:
    assert client.get_server_info()['owner'] == 'ada'
    try:
        client.run(f, gpu_memory=2)
    except InvalidArgument as error:
        assert error.status == 400 and error.job_id == 'j0'
        assert 'gpu_memory: must be over 0' in str(error)
        assert '(refused as j0)' in str(error) and 'job: j0' not in str(error)
    try:
        client.attach('nope')
    except NotFound as error:
        assert error.job_id == 'nope' and 'look at list_jobs' in str(error)
try:
    client.get_server_info()
except ConnectionFailed as error:
    assert 'closed' in str(error)
""",
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # Autobahn's own warnings stay out of it


def test_silent_server_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run(
            tmp_path / "u.py",
            f"""
from cumulus_client import *
client = CumulusClient({url!r})
client._core.connection._connect_timeout_s = 0.5
try:
    client.get_server_info()
except ConnectionFailed as error:
    assert 'within 0.5 s' in str(error), error
client.close()
""",
        )
    assert done.returncode == 0, done.stderr


def test_results_and_ends(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
job = submit("pickle")
assert job.result() == (1, {2}) and job.done() and job.status() == "completed"
other = CumulusClient(client.server_url)
try:
    other.attach(job.job_id).result()
except ResultError as error:
    assert "this very client object" in str(error)
wary = CumulusClient(client.server_url, allow_pickle=False)
try:
    submit("pickle", wary).result()
except ResultError as error:
    assert "allow_pickle=False" in str(error)
other.close(); wary.close()
try:
    submit("damaged").result()
except ResultError as error:
    assert "damaged" in str(error) and error.job_id
try:
    submit("failed").result()
except JobFailed as error:
    assert str(error).startswith("Job failed: ValueError: no")
    assert type(error.__cause__) is ValueError and error.exit_code == 1
pending = submit("pending")
assert "".join(pending.logs(follow=False)).endswith("line 1999 é\\n")
try:
    pending.result(timeout=0.3)
except ClientTimeout as error:
    assert str(error).startswith("Client timeout exceeded") and pending.job_id in str(error)
    assert isinstance(error, TimeoutError)
assert pending.cancel() is True and pending.cancel() is False
assert pending.wait() == "cancelled"
try:
    pending.result()
except JobCancelled as error:
    assert pending.job_id in str(error)
logs = pending.logs()
next(logs); logs.close()
assert client.get_job_status(pending.job_id)["status"] == "cancelled"
client.close(); client.close()
assert [t.name for t in threading.enumerate()] == ["MainThread"]
""",
    )
    assert done.returncode == 0, done.stderr


def test_async_client_on_a_loop_of_its_own(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        f"""
import asyncio
from cumulus_client import *
def f(): pass
async def main():
    async with AsyncCumulusClient({relay.url!r}) as client:
        assert await client.run(f) == {{"a": 1}}
        job = await client.submit(f, name="plain")
        first, both = await asyncio.gather(job.result(), client.submit(f, name="plain"))
        assert first == {{"a": 1}} and await both.done() in (True, False)
        chunks = [text async for text in job.logs()]
        assert "".join(chunks) == "".join(f"line {{n}} é\\n" for n in range(2000))
        pending = await client.submit(f, name="pending")
        try:
            await pending.result(timeout=0.2)
        except ClientTimeout:
            pass
        assert await pending.cancel() and await pending.wait() == "cancelled"
        f.__name__  # the same loop goes on
        from cumulus_client._options import make_spec
        from cumulus_client.display import Display
        from cumulus_client.packaging import Package
        package = Package(name="pending", data=b"y")
        spec = make_spec(gpu_memory=1, duration=1)
        running = asyncio.create_task(client._follow(package, spec, None, Display()))
        while not any(j["status"] == "running" for j in await client.list_jobs()):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            pass
        assert (await client.list_jobs())[0]["status"] == "cancelled"
asyncio.run(main())
""",
    )
    assert done.returncode == 0, done.stderr
    assert "[cumulus] cancelling job" in done.stderr


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_cancels_and_a_second_detaches(relay: Relay, tmp_path: Path, twice: bool) -> None:
    name = "stuck" if twice else "pending"
    path = tmp_path / "u.py"
    path.write_text(
        HEAD.format(url=relay.url) + f"try:\n    follow({name!r})\nexcept KeyboardInterrupt:\n"
        "    print('STATUS', client.list_jobs()[0]['status'])\nclient.close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    killer = threading.Timer(TIMEOUT_S, process.kill)
    killer.start()
    try:
        assert process.stdout is not None and process.stderr is not None
        errors: list[str] = []

        def until(words: str, stream: "object") -> None:
            for line in stream:  # type: ignore[attr-defined]
                errors.append(line)
                if words in line:
                    return
            raise AssertionError("".join(errors))

        drain = threading.Thread(target=lambda: out.append(process.stdout.read()))  # type: ignore[union-attr]
        out: list[str] = []
        drain.start()
        until("line 1998", process.stderr)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        until("cancelling job job-1", process.stderr)
        if twice:
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            until("detached", process.stderr)
        assert process.wait(20) == 0
        drain.join(10)
        assert f"STATUS {'running' if twice else 'cancelled'}" in out[0]
    finally:
        killer.cancel()
        killer.join()
        process.kill()
        process.wait(10)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_client_made_before_a_fork_says_so(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        f"""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from cumulus_client import *
client = CumulusClient({relay.url!r})
client.get_server_info()
if os.fork() == 0:
    try:
        client.get_server_info()
    except ConnectionFailed as error:
        os._exit(0 if "fork" in str(error) else 1)
    os._exit(2)
_, status = os.wait()
assert os.waitstatus_to_exitcode(status) == 0
client.close()
""",
    )
    assert done.returncode == 0, done.stderr


def test_a_map_whose_job_cannot_be_followed_cancels_it(relay: Relay, tmp_path: Path) -> None:
    done = run(
        tmp_path / "u.py",
        HEAD.format(url=relay.url)
        + """
import cumulus_client._journal_reader as reader
def refuse(self, records):
    raise ResultError("can't be kept")
reader.ResultCollector.feed = refuse
def g(x): pass
[error] = client.map(g, [1], return_exceptions=True, name="pending")
assert isinstance(error, ResultError), error
while client.list_jobs()[0]["status"] != "cancelled":
    time.sleep(0.02)
# One that is closed by another thread while it waits ends, and doesn't hang.
waiting = client.map(g, [1, 2], name="stuck")
def close():
    while len(client.list_jobs()) < 3:
        time.sleep(0.02)
    client.close()
threading.Thread(target=close).start()
reader.ResultCollector.feed = lambda self, records: None
try:
    next(waiting)
except ConnectionFailed as closed:
    assert "closed" in str(closed), closed
else:
    raise AssertionError("it has no result")
""",
    )
    assert done.returncode == 0, done.stderr
    assert "cancelling 2 jobs: job-2, job-3" in done.stderr or "cancelling job" in done.stderr
