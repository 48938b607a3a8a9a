"""The client's one connection, and its faces, as users' scripts meet them."""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from tests.e2e.harness import Daemon, free_port
from tests.e2e.proxy import Proxy
from tests.next_line import next_line

MakeDaemon = Callable[..., Daemon]

HEAD = """\
import asyncio, concurrent.futures, json, os, signal, sys, threading, time
import cumulus_client.connection
cumulus_client.connection.PING_INTERVAL_S, cumulus_client.connection.PING_TIMEOUT_S = 0.5, 1.0
from cumulus_client import *
client = CumulusClient("{URL}")
def count(n, pause=0.05):
    import time
    for number in range(n):
        print("line", number)
        time.sleep(pause)
    return n
def lines(n):
    return "".join(f"line {number}\\n" for number in range(n))
def square(x):
    return x * x
async def later(x):
    import asyncio
    await asyncio.sleep(0.01)
    return {"x": x}
def fails(x):
    raise ValueError(x)
def waits(seconds):
    import time
    print("begun")
    time.sleep(seconds)
SMALL = {"gpu_memory": 0.1, "duration": 90}
"""

#: Everything that follows jobs, at the same time: two readers, run, map, a future and the async
#: client. Each checks what it got, line by line.
ALL_AT_ONCE = """
N = 60
got, problems = {}, []
job = client.submit(count, args=[N], **SMALL)
def follow(name):
    try:
        got[name] = "".join(job.logs()) == lines(N)
    except BaseException as error:
        problems.append(repr(error))
readers = [threading.Thread(target=follow, args=(f"reader {n}",)) for n in (1, 2)]
for reader in readers:
    reader.start()
async def asynchronous():
    async with AsyncCumulusClient("{URL}") as far:
        handle = await far.submit(count, args=[N], **SMALL)
        text = [chunk async for chunk in handle.logs()]
        got["async"] = "".join(text) == lines(N) and await handle == N
running = threading.Thread(target=lambda: asyncio.run(asynchronous()))
running.start()
future = job.future()
print("following", flush=True)
got["map"] = list(client.map(count, [N, N], **SMALL))
for reader in readers:
    reader.join()
running.join()
got["future"] = future.result()
client.close()
print(json.dumps({"got": got, "problems": problems}))
"""


def told(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


def check_all(out: str, err: str) -> None:
    answer = told(out)
    assert answer["problems"] == [], err
    assert answer["got"] == {
        "reader 1": True, "reader 2": True, "async": True, "map": [60, 60], "future": 60,
    }, err  # fmt: skip
    # map showed two jobs' lines, whole and each once.
    shown = [line for line in out.splitlines() if line.startswith("line ")]
    assert sorted(shown) == sorted(f"line {number}" for number in range(60) for _ in range(2))


def test_a_client_has_one_connection_whatever_it_does(daemon: Daemon) -> None:
    with Proxy(daemon.port) as proxy:
        process = daemon.begin(
            HEAD.replace("{URL}", proxy.url)
            # The async client has its own, past the proxy.
            + ALL_AT_ONCE.replace("client.close()", "client.list_workers()")
            + "time.sleep(60)\n"
        )
        with process:
            assert process.stdout is not None and process.stderr is not None
            assert next_line(process) == "following\n"
            most, out = 0, ""
            sockets = psutil.Process(process.pid)
            while '"got"' not in (line := next_line(process)):
                assert line, process.stderr.read()
                out += line
                # The daemon's own side of it is the proxy's only connection.
                most = max(most, len(_to(sockets, int(proxy.url.rpartition(":")[2]))))
            process.kill()
            out, err = out + line, process.stderr.read()
        check_all(out, err)
        assert (most, proxy.accepted) == (1, 1)


def _to(process: psutil.Process, port: int) -> list[Any]:
    return [each for each in process.net_connections("tcp") if each.raddr and each.raddr[1] == port]


def test_a_cut_and_a_silent_connection_lose_and_double_no_line(daemon: Daemon) -> None:
    with Proxy(daemon.port) as proxy:
        process = daemon.begin((HEAD + ALL_AT_ONCE).replace("{URL}", proxy.url))
        with process:
            assert process.stdout is not None
            first = next_line(process)
            assert first == "following\n"
            time.sleep(0.7)
            proxy.cut()
            time.sleep(0.7)
            proxy.silence()  # a laptop that slept: nobody says that the connection is gone
            out, err = process.communicate(timeout=100)
        check_all(out, err)
        assert err.count("connection lost, reconnecting") >= 2
        assert proxy.accepted >= 4


def test_a_stopped_client_and_a_restarted_daemon_lose_and_double_no_line(
    make_daemon: MakeDaemon,
) -> None:
    daemon = make_daemon().start()
    process = daemon.begin(HEAD + ALL_AT_ONCE)
    with process:
        assert process.stdout is not None
        assert next_line(process) == "following\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)  # the lid closes
        time.sleep(0.5)
        daemon.kill()
        daemon.start()
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        daemon.kill()
        time.sleep(0.5)
        daemon.start()
        out, err = process.communicate(timeout=100)
    check_all(out, err)
    daemon.wait_nothing_left()


def test_a_result_is_had_without_the_output_before_it(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def chatty():
    for number in range(20000):
        print("x" * 1000)
    return list(range(300000))
job = client.submit(chatty, **SMALL)
job.wait()
print(job.job_id)
"""
    )
    job_id = done.stdout.strip()
    with Proxy(daemon.port) as proxy:
        text = (
            HEAD.replace("{URL}", proxy.url)
            + f"""
job = client.attach({job_id!r})
assert job.result() == list(range(300000)) and job.future().result(30) == job.result()
assert job.exception() is None and job.wait() == "completed"
"""
        )
        daemon.run(text)
        assert 0 < proxy.carried_bytes < 8_000_000


# --- interruptions ----------------------------------------------------------------------------


def interrupt(daemon: Daemon, text: str, times: int = 1) -> tuple[str, str, int]:
    """Runs a script until it says "begun", then sends SIGINT so many times."""
    process = daemon.begin(HEAD + text)
    with process:
        assert process.stdout is not None
        while (line := next_line(process)) != "begun\n":
            assert line, process.communicate()
        for number in range(times):
            if number:
                time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return out, err, process.returncode


def test_ctrl_c_in_run_cancels_and_says_which(daemon: Daemon) -> None:
    for text in (
        "client.run(waits, args=[60], **SMALL)",
        "remote(client, **SMALL)(waits)(60)",
        """
async def cell():  # of a notebook, whose loop runs already
    client.run(waits, args=[60], **SMALL)
asyncio.new_event_loop().run_until_complete(cell())
""",
    ):
        out, err, code = interrupt(daemon, text)
        job = daemon.jobs()[0]
        assert f"[cumulus] cancelling job {job['job_id']} (Ctrl-C again" in err
        assert code == -signal.SIGINT and "KeyboardInterrupt" in err, (out, err)
        assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_ctrl_c_under_asyncio_cancels_and_says_which(daemon: Daemon) -> None:
    for call in (
        "await far.run(waits, args=[60], **SMALL)",
        "await remote(far, **SMALL)(waits)(60)",
        "[v async for v in far.map(waits, [60], **SMALL)]",
    ):
        _, err, code = interrupt(
            daemon,
            f"""
async def main():
    async with AsyncCumulusClient("{{URL}}") as far:
        {call}
asyncio.run(main())
""",
        )
        job = daemon.jobs()[0]
        assert f"[cumulus] cancelling job {job['job_id']}" in err
        assert code == -signal.SIGINT, err
        assert daemon.wait_job(job["job_id"], "ended")["status"] == "cancelled"


def test_a_second_ctrl_c_detaches(daemon: Daemon) -> None:
    process = daemon.begin(
        HEAD
        + """
def stubborn():
    import signal, time
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print("begun")
    time.sleep(60)
client.run(stubborn, **SMALL)
"""
    )
    with process:
        assert process.stdout is not None
        assert next_line(process) == "begun\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    job = daemon.jobs()[0]
    assert f"detached; job {job['job_id']} may still be running" in err or (
        job["status"] == "cancelled"  # it was quicker than the second Ctrl-C
    )
    assert process.returncode == -signal.SIGINT
    daemon.wait_job(job["job_id"], "ended")


def test_ctrl_c_while_waiting_for_a_submitted_job_only_stops_waiting(daemon: Daemon) -> None:
    for wait in ("job.result()", "job.wait()", "job.exception()", "list(job.logs())"):
        _, err, code = interrupt(
            daemon,
            f"""
job = client.submit(waits, args=[60], **SMALL)
while job.status() != "running":
    time.sleep(0.05)
threading.Timer(1.0, print, ["begun"], {{"flush": True}}).start()  # when it has begun to wait
{wait}
""",
        )
        job = daemon.jobs()[0]
        assert code == -signal.SIGINT, err
        assert f"[cumulus] interrupted: job {job['job_id']} goes on" in err
        assert job["status"] == "running"
        done = daemon.run(HEAD + f"print(client.cancel_job({job['job_id']!r}))")
        assert done.stdout == "True\n"
        daemon.wait_job(job["job_id"], "ended")


# --- faces ------------------------------------------------------------------------------------


def test_decorated_functions(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
far = AsyncCumulusClient("{URL}")
@remote(client, gpu_memory=0.1, duration="90s", env={"GREETING": "hello"}, name="greeting")
def greet(who, *, mark="!", name="x"):
    import os
    return os.environ["GREETING"] + " " + who + mark + name
@gpu(client, memory=0.1, duration=60)
def double(x):
    return 2 * x
@async_remote(client, gpu_memory=0.1, duration=60)
def triple(x):
    return 3 * x
@remote(far, gpu_memory=0.1, duration=60)
def quadruple(x):
    return 4 * x
async def awaited():
    job = await quadruple.submit(2)
    mapped = [value async for value in quadruple.map([3, 4])]
    value = await quadruple(1)
    await far.close()
    return [value, await job if False else None, mapped]
hello = greet.with_options(env={"GREETING": "good day"}, name="politely")
plain = create_remote_function(client, square, 0.1, 60)
answers = [
    greet("Ada"), greet("Ada", mark="?", name="y"), hello("Bob"), double(2), triple(2).result(),
    double.submit(3).result(), double.async_call(4).result(), list(double.map([5, 6])),
    plain(7), plain.func(8), asyncio.run(awaited()),
]
names = [job["name"] for job in client.list_jobs(limit=100)]
print(json.dumps([answers, "greeting" in names, "politely" in names]))
"""
    )
    answers, greeting, politely = told(done.stdout)
    assert answers == [
        "hello Ada!x", "hello Ada?y", "good day Bob!x", 4, 6, 6, 8, [10, 12], 49, 64,
        [4, None, [12, 16]],
    ]  # fmt: skip
    assert greeting and politely


def test_jobs_as_futures(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
jobs = [client.run_async(square, args=[n], **SMALL) for n in (2, 3)]
bad = client.submit(fails, args=["no"], **SMALL)
called, threads = [], []
def callback(job):
    called.append(job.job_id)
    threads.append(threading.current_thread() is threading.main_thread())
    job.result()  # it may block there
def raises(job):
    raise RuntimeError("in a callback")
jobs[0].add_done_callback(raises)
jobs[0].add_done_callback(callback)
done, _ = concurrent.futures.wait([job.future() for job in jobs], timeout=60)
values = sorted(future.result() for future in concurrent.futures.as_completed(done))
late = []
jobs[1].add_done_callback(lambda job: late.append(job.result()))
while not called:
    time.sleep(0.02)
error = bad.exception(timeout=60)
assert jobs[0].exception() is None and jobs[0].future() is jobs[0].future()
long = client.submit(waits, args=[60], **SMALL)
states = [long.done(), long.cancelled()]
long.future().cancel()
states += [type(long.exception(60)).__name__, long.done(), long.cancelled(), long.running()]
open_one = client.submit(waits, args=[1.5], **SMALL).future()
client.close()
try:
    open_one.result(5)
except ConnectionFailed as closed:
    states.append("closed" in str(closed))
async def awaited():
    async with AsyncCumulusClient("{URL}") as far:
        one, two = [await far.submit(square, args=[n], **SMALL) for n in (4, 5)]
        heard = []
        one.add_done_callback(lambda job: heard.append(job is one))
        both = await asyncio.gather(one, two)
        await one.future()
        problem = await (await far.submit(fails, args=["no"], **SMALL)).exception()
        return [both, heard, problem.error_type, await one.done(), await one.running()]
print(json.dumps([values, late, called == [jobs[0].job_id], threads, type(error).__name__,
                  error.error_type, states, asyncio.run(awaited())]))
"""
    )
    assert told(done.stdout) == [
        [4, 9], [9], True, [False], "JobFailed", "ValueError",
        [False, False, "JobCancelled", True, True, False, True],
        [[16, 25], [True], "ValueError", True, False],
    ]  # fmt: skip
    assert "in a callback" in done.stderr, "what a callback raises is logged"


def test_a_running_loop_threads_and_forks(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
async def notebook():
    return client.run(square, args=[3], **SMALL)
answers = [asyncio.run(notebook())]
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    answers.append(list(pool.map(lambda n: client.run(square, args=[n], **SMALL), range(4))))
sys.stdout.flush()
child = os.fork()
if child == 0:
    try:
        client.get_server_info()
    except ConnectionFailed as error:
        client.close()
        with CumulusClient("{URL}") as own:
            well = own.run(square, args=[6], **SMALL) == 36
        os._exit(17 if "made before a fork" in str(error) and well else 1)
    os._exit(2)
answers.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
answers.append(client.run(square, args=[5], **SMALL))  # the parent's goes on
job = client.submit(square, args=[9], **SMALL)
answers.append("".join(job.logs(follow=False)))
print(json.dumps(answers))
# and the interpreter ends without close()
"""
    )
    answers = told(done.stdout)
    assert answers[:4] == [9, [0, 1, 4, 9], 17, 25]


def test_environment_and_profiles_say_which_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    text = HEAD.replace('CumulusClient("{URL}")', "CumulusClient()") + (
        "print(client.server_url, client.run(square, args=[3], **SMALL))"
    )
    before = os.environ.get("CUMULUS_SERVER_URL")
    os.environ["CUMULUS_SERVER_URL"] = daemon.url
    try:
        assert daemon.run(text).stdout == f"{daemon.url} 9\n"
    finally:
        if before is None:
            del os.environ["CUMULUS_SERVER_URL"]
        else:
            os.environ["CUMULUS_SERVER_URL"] = before
    nobody = daemon.run(
        "from cumulus_client import *\n"
        f"CumulusClient('http://127.0.0.1:{free_port()}').list_jobs()",
        check=False,
        timeout_s=20,
    )
    assert nobody.returncode == 1
    assert "Connection refused" in nobody.stderr and "is cumulusd running there?" in nobody.stderr


def test_a_job_is_paused_and_resumed_by_its_handle(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def train(steps):
    import os, pathlib, time, runtime
    path = pathlib.Path(os.environ["CUMULUS_CHECKPOINT_DIR"]) / "step"
    step = int(path.read_text()) if path.exists() else 0
    while step < steps:
        step += 1
        print("line", step - 1)
        runtime.progress(step / steps, f"step {step}")
        path.write_text(str(step))
        if runtime.should_pause():
            raise runtime.CooperativePause()
        time.sleep(0.05)
    (pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"]) / "model").write_text(str(step))
    return step
def paused(job):
    while job.status() != "paused":
        time.sleep(0.05)
job = client.submit(train, args=[40], **SMALL)
future, logs = job.future(), job.logs()
text = [next(logs)]
while (progress := job.progress()) is None:
    time.sleep(0.05)
answers = [job.pause()["paused"], progress["message"].startswith("step")]
paused(job)
answers += [job.done(), job.running(), job.progress(), job.get_checkpoints(), future.done(),
            job.resume()["resumed"]]
text += logs
answers += ["".join(text) == lines(40), future.result(60)]
async def awaited():
    async with AsyncCumulusClient("{URL}") as far:
        job = await far.submit(train, args=[40], **SMALL)
        async for _ in job.logs():
            break
        while (progress := await job.progress()) is None:
            await asyncio.sleep(0.05)
        got = [(await job.pause())["paused"], progress["message"].startswith("step")]
        while await job.status() != "paused":
            await asyncio.sleep(0.05)
        got += [await job.done(), await job.get_checkpoints(), (await job.resume())["resumed"]]
        text = "".join([chunk async for chunk in job.logs()])
        got += [text == lines(40), await job, await job.wait()]
        got += [[one["name"] for one in await job.outputs()]]
        got += [(await job.download("model", "async_model")).read_text()]
        got += [(await far.delete_job(job.job_id))["deleted"]]
        try:
            await job.status()
        except NotFound:
            got.append("gone")
        return got
print(json.dumps([answers, asyncio.run(awaited())]))
""",
        timeout_s=100,
    )
    blocking, awaited = told(done.stdout)
    assert blocking == [True, True, False, False, None, [], False, True, True, 40]
    assert awaited == [
        True, True, False, [], True, True, 40, "completed", ["model"], "40", True, "gone",
    ]  # fmt: skip


def test_an_old_script_with_its_import_changed(daemon: Daemon) -> None:
    done = daemon.run(
        """
import json, os, time
from cumulus_client import (
    CodePackager, CumulusClient, CumulusJob, RemoteFunction, async_remote, create_remote_function,
    gpu, remote,
)
SCALE = 10
client = CumulusClient("{URL}")
def train(epochs, lr=0.1):
    return {"epochs": epochs, "lr": lr, "scale": SCALE, "nan": float("nan")}
def boom():
    raise KeyError("lost")
def sleeps(seconds):
    import time
    time.sleep(seconds)
@remote(client, gpu_memory=0.1, duration=60)
def add(a, b=1):
    return a + b
@gpu(client, memory=0.1)
def double(a):
    return 2 * a
@async_remote(client, gpu_memory=0.1)
def triple(a):
    return 3 * a
got = client.run(train, gpu_memory=0.1, duration=60, requirements=[], timeout=60, epochs=3)
got["nan"] = got["nan"] != got["nan"]
answers = [got, add(2), add(2, 3), add(a=1, b=1), double(4), triple(5).result(timeout=60)]
answers.append(add.async_call(7).result())
answers.append(RemoteFunction(client, add, 0.1, 60)(1))
answers.append(create_remote_function(client, train, gpu_memory=0.1)(epochs=1)["scale"])
for call in (
    lambda: client.run(boom, gpu_memory=0.1),
    lambda: client.run(sleeps, gpu_memory=0.1, duration=0.5, seconds=60),
    lambda: client.run(sleeps, gpu_memory=0.1, timeout=1, seconds=60),
):
    try:
        call()
    except (RuntimeError, TimeoutError) as error:
        answers.append([isinstance(error, TimeoutError), str(error).split(";")[0][:22]])
job_id = client.list_jobs()[0]["job_id"]
job = CumulusJob(client, job_id)
while job.status() in ("pending", "starting"):
    time.sleep(0.05)
answers.append([client.get_job_status(job_id)["status"], job.status()])
answers += [client.cancel_job(job_id), job.get_checkpoints(), client.get_checkpoints(job_id)]
while job.status() == "running":
    time.sleep(0.05)
answers += [job.status(), client.cancel_job(job_id)]
info = client.get_server_info()
answers.append(sorted(set(info) & {"server_version", "chronos_available", "gpu_devices",
                                   "active_jobs", "max_concurrent_jobs"}))
packager = CodePackager()
packager.add_source_file("extra.txt", "more")
answers.append(packager.package_function(train, ["numpy"], "job-1", [3], lr=0.2)[:2] == b"PK")
print(json.dumps(answers))
"""
    )
    assert told(done.stdout) == [
        {"epochs": 3, "lr": 0.1, "scale": 10, "nan": True}, 3, 5, 2, 8, 15, 8, 2, 10,
        [False, "Job failed: KeyError: "], [True, "Job timed out: the cod"],
        [True, "Client timeout exceede"], ["running", "running"], True, [], [],
        "cancelled", False,
        ["active_jobs", "chronos_available", "gpu_devices", "max_concurrent_jobs",
         "server_version"],
        True,
    ]  # fmt: skip
