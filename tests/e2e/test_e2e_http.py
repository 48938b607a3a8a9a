"""HTTP as programs use it that were never upgraded, and as curl does: on the local platform."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from cumulusd.identity import hash_token
from tests.e2e.harness import REPOSITORY, Daemon
from tests.old_sdk import OldClient, OldPackager

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def old(daemon: Daemon) -> Iterator[OldClient]:
    client = OldClient(daemon.url + "/")
    yield client
    client.close()


# The old packager shipped a function's source alone: no imports, so no annotations that need them.
def add(a, b=1):  # type: ignore[no-untyped-def]
    import os

    import runtime

    print("adding in", os.getcwd())
    assert os.environ["CUMULUS_JOB_DIR"] == os.getcwd()
    return {"sum": a + b, "runtime": runtime.__name__, "pause": runtime.should_pause()}


def fail() -> None:
    print("before")
    raise ValueError("boom")


def sleep() -> None:
    import time

    print("asleep", flush=True)
    time.sleep(300)


def not_json() -> float:
    return float("nan")


def test_an_old_program_runs_unchanged(old: OldClient) -> None:
    value = old.run(add, gpu_memory=0.25, duration=60, args=[2], b=3)
    assert value == {"sum": 5, "runtime": "runtime", "pause": False}
    job = old.list_jobs()[0]
    assert {
        "job_id",
        "status",
        "created_at",
        "started_at",
        "completed_at",
        "error",
        "partition_id",
    } <= set(job)
    assert job["status"] == "completed" and job["created_at"] <= job["completed_at"]
    assert uuid.UUID(job["job_id"]), "the id is the one that it sent"
    assert old.get_job_status(job["job_id"])["partition_id"]
    info = old.get_server_info()
    assert {"server_version", "chronos_available", "active_jobs"} <= set(info)
    assert "max_concurrent_jobs" in info
    assert {"id", "name", "type"} <= set(info["gpu_devices"][0])
    health = requests.get(old.server_url + "/health", timeout=10)
    assert health.json()["status"] == "healthy" and "timestamp" in health.json()


def test_results_are_the_raw_file_and_what_it_printed_is_a_log(old: OldClient) -> None:
    code = OldPackager().package_function(add, [], "x", [1])
    job_id = old.submit(code)["job_id"]
    old.wait(job_id)
    response = old.session.get(f"{old.server_url}/api/jobs/{job_id}/results", timeout=10)
    assert response.headers["Content-Type"] == "application/json"
    assert response.text.startswith('{"success": true, "result": {"sum": 2')
    log = old.session.get(f"{old.server_url}/api/jobs/{job_id}/logs", timeout=10)
    assert log.text.startswith("adding in /")


def test_nan_is_no_500(old: OldClient) -> None:
    assert str(old.run(not_json)) == "nan"


def test_an_error_has_its_type_and_its_traceback(old: OldClient) -> None:
    with pytest.raises(RuntimeError, match="Job failed: ValueError: boom"):
        old.run(fail)
    job = old.list_jobs()[0]
    assert (job["status"], job["error"]) == ("failed", "ValueError: boom")
    error = old.get_job_status(job["job_id"])["end"]["error"]
    assert error["type"] == "ValueError" and "in fail" in error["traceback"]
    response = old.session.get(f"{old.server_url}/api/jobs/{job['job_id']}/results", timeout=10)
    assert response.status_code == 400


def test_the_answers_of_before(old: OldClient) -> None:
    code = OldPackager().package_function(sleep, [], "x")
    submitted = old.submit(code, job_id="the-one")
    assert submitted["job_id"] == "the-one" and submitted["status"] == "pending"
    assert "message" in submitted
    url = f"{old.server_url}/api/jobs/the-one"
    assert old.session.get(url + "/results", timeout=10).status_code == 400, "not completed"
    with pytest.raises(requests.HTTPError, match="409"):
        old.submit(code, job_id="the-one")
    with pytest.raises(TimeoutError, match="Client timeout exceeded"):
        old.wait("the-one", timeout=0.3)
    assert old.cancel_job("the-one") is True
    with pytest.raises(RuntimeError, match="cancelled"):
        old.wait("the-one", timeout=30)
    for path in ("/results", "/logs", ""):
        missing = old.session.get(f"{old.server_url}/api/jobs/none{path}", timeout=10)
        assert missing.status_code == 404 and missing.json()["error"]
    assert old.session.post(f"{old.server_url}/api/jobs/none/cancel", timeout=10).status_code == 404


def test_every_fault_of_a_job_at_once(old: OldClient) -> None:
    response = old.session.post(
        f"{old.server_url}/api/jobs",
        files={"code": ("code.zip", b"", "application/zip")},
        data={"job_id": "no id", "gpu_memory": "2", "duration": "soon", "colour": "red"},
        timeout=10,
    )
    assert response.status_code == 400
    assert response.json()["details"]["faults"] == [{"key": "code", "message": "is empty"}]
    code = OldPackager().package_function(add, ["six", "--index-url http://x"], "x")
    response = old.session.post(
        f"{old.server_url}/api/jobs",
        files={"code": ("code.zip", code)},
        data={"job_id": "no id", "gpu_memory": "2", "duration": "soon", "colour": "red"},
        timeout=10,
    )
    keys = [fault["key"] for fault in response.json()["details"]["faults"]]
    assert response.status_code == 400
    assert sorted(keys) == ["colour", "duration", "gpu_memory", "job_id"]
    with pytest.raises(requests.HTTPError, match="400"):
        old.submit(code)
    with pytest.raises(requests.HTTPError, match="400"):
        old.submit(b"this is no zip")


def test_what_a_zip_requires_is_in_its_record(old: OldClient, daemon: Daemon) -> None:
    code = OldPackager().package_function(add, ["no-such-thing-as-this==0.0.1  # or is there"], "x")
    job_id = old.submit(code)["job_id"]
    with pytest.raises(RuntimeError, match="no-such-thing-as-this"):
        old.wait(job_id, timeout=60)
    assert old.get_job_status(job_id)["end"]["reason"] == "requirements_failed"


def test_a_zip_of_a_folder(old: OldClient) -> None:
    code = OldPackager().package_files(
        {
            "main.py": "import helper\nprint(helper.WORD)\n",
            "helper.py": "WORD = 'helped'\n",
            "requirements.txt": "",
        }
    )
    job_id = old.submit(code)["job_id"]
    with pytest.raises(requests.HTTPError, match="404"):
        old.wait(job_id, timeout=30)  # it is completed, and left no result
    log = old.session.get(f"{old.server_url}/api/jobs/{job_id}/logs", timeout=10)
    assert log.text == "helped\n"


def test_the_queue_has_a_bound(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra="jobs:\n  max_queued: 1\n").start()
    client = OldClient(daemon.url)
    code = OldPackager().package_function(sleep, [], "x")
    running = client.submit(code, gpu_memory=1.0)["job_id"]
    daemon.wait_job(running, "running")
    waiting = client.submit(code, gpu_memory=1.0)["job_id"]
    with pytest.raises(RuntimeError, match="at capacity"):
        client.submit(code, gpu_memory=1.0)
    for job_id in (waiting, running):
        assert client.cancel_job(job_id)
    daemon.wait_nothing_left()
    client.close()


def test_the_key_is_checked(make_daemon: MakeDaemon) -> None:
    tokens = "".join(
        f"  - {{name: {name}, owner: {name}, role: {role}, "
        f"token_sha256: {hash_token(name + '-secret')}}}\n"
        for name, role in (("ann", "client"), ("bob", "client"), ("eve", "viewer"))
    )
    daemon = make_daemon(extra=f"tokens:\n{tokens}").start()
    ann, bob, eve, nobody = (
        OldClient(daemon.url, key) for key in ("ann-secret", "bob-secret", "eve-secret", None)
    )
    code = OldPackager().package_function(add, [], "x", [1])
    job_id = ann.submit(code)["job_id"]
    assert ann.wait(job_id)["sum"] == 2
    for client, status in ((bob, 404), (nobody, 401)):
        with pytest.raises(requests.HTTPError, match=str(status)):
            client.results(job_id)
    with pytest.raises(requests.HTTPError, match="403"):
        eve.submit(code)
    with pytest.raises(requests.HTTPError, match="401"):
        nobody.submit(b"x" * (20 << 20))  # it sends all of it, and still reads the answer
    for client in (ann, bob, eve, nobody):
        client.close()


def events(response: requests.Response) -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
        if line:
            name, _, text = line.partition(": ")
            found[name] = text
        elif found:
            yield found
            found = {}


def test_a_followed_log_goes_on_where_it_was_cut(old: OldClient, daemon: Daemon) -> None:
    source = (
        "import time\nfor i in range(30):\n    print('line', i, flush=True)\n    time.sleep(.03)\n"
    )
    code = OldPackager().package_files({"main.py": source})
    job_id = old.submit(code)["job_id"]
    url = f"{old.server_url}/api/jobs/{job_id}/logs"
    headers = {"Accept": "text/event-stream"}
    text, last = "", ""
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        for event in events(response):
            last = event.get("id", last)
            if event.get("event") == "log":
                text += json.loads(event["data"])["text"]
                if "line 5\n" in text:
                    break
    headers["Last-Event-ID"] = last
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        for event in events(response):
            last = event.get("id", last)
            if event.get("event") == "log":
                text += json.loads(event["data"])["text"]
            if event.get("event") == "end":
                assert json.loads(event["data"])["job"]["status"] == "completed"
    assert text == "".join(f"line {i}\n" for i in range(30)), "no line lost or doubled"
    headers["Last-Event-ID"] = last
    assert requests.get(url, headers=headers, timeout=10).status_code == 204


def test_a_pickled_result_is_never_opened_by_the_daemon(old: OldClient, daemon: Daemon) -> None:
    done = daemon.run(
        "from cumulus_client import CumulusClient\n"
        "def f(): return {1, 2}\n"
        "with CumulusClient('{URL}') as client:\n"
        "    job = client.submit(f, duration=30); job.result(timeout=30); print(job.job_id)\n"
    )
    job_id = done.stdout.split()[-1]
    response = old.session.get(f"{old.server_url}/api/jobs/{job_id}/results", timeout=10)
    assert response.status_code == 409 and "never opens" in response.json()["message"]


def test_a_new_clients_json_result_is_that_json(old: OldClient, daemon: Daemon) -> None:
    done = daemon.run(
        "from cumulus_client import CumulusClient\n"
        "def f(): return {'a': [1, None]}\n"
        "with CumulusClient('{URL}') as client:\n"
        "    job = client.submit(f, duration=30); job.result(timeout=30); print(job.job_id)\n"
    )
    assert old.results(done.stdout.split()[-1]) == {"a": [1, None]}


def test_all_that_a_job_can_have_may_come_with_the_form(old: OldClient, daemon: Daemon) -> None:
    main = """
import json, os
with open("result.json", "w") as file:
    json.dump([os.environ["WORD"], os.environ["TOKEN"]], file)
"""
    answer = old.session.post(
        f"{old.server_url}/api/jobs",
        files={"code": ("code.zip", OldPackager().package_files({"main.py": main}))},
        data={
            "name": "everything",
            "environment": json.dumps({"WORD": "seen"}),
            "secrets": json.dumps({"TOKEN": "hush-hush"}),
            "priority": "3",
            "setup_timeout_s": "60",
        },
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["job_id"]
    view = daemon.wait_job(job_id, "ended")
    assert (view["status"], view["name"], view["secret_names"]) == (
        "completed",
        "everything",
        ["TOKEN"],
    )
    assert old.results(job_id) == ["seen", "hush-hush"]
    assert "hush-hush" not in daemon.log_text()


def test_a_job_as_json_with_a_package_that_is_here(old: OldClient) -> None:
    code = OldPackager().package_files({"main.py": "open('result.json','w').write('7')"})
    old.submit(code, job_id="first")
    import hashlib

    spec = {
        "package": {"sha256": hashlib.sha256(code).hexdigest(), "size_bytes": len(code)},
        "gpu_memory": 0.25,
        "duration_s": 30,
        "name": "again",
    }
    url = f"{old.server_url}/api/jobs"
    answer = old.session.post(url, json=spec, timeout=10)
    assert answer.status_code == 200
    job_id = answer.json()["job_id"]
    for each in ("first", job_id):
        while old.get_job_status(each)["status"] != "completed":
            time.sleep(0.1)
        assert old.results(each) == 7
    assert old.get_job_status(job_id)["name"] == "again"


def test_what_a_job_leaves_is_downloaded(old: OldClient) -> None:
    main = """
import os
folder = os.path.join(os.environ["CUMULUS_OUTPUT_DIR"], "sub")
os.makedirs(folder)
open(os.path.join(folder, "a b.bin"), "wb").write(bytes(range(256)))
open("result.json", "w").write("1")
"""
    job_id = old.submit(OldPackager().package_files({"main.py": main}))["job_id"]
    while old.get_job_status(job_id)["status"] != "completed":
        time.sleep(0.1)
    url = f"{old.server_url}/api/jobs/{job_id}/outputs"
    (output,) = old.session.get(url, timeout=10).json()["outputs"]
    assert (output["name"], output["size_bytes"]) == ("sub/a b.bin", 256)
    file = old.session.get(f"{url}/sub/a%20b.bin", timeout=10)
    assert file.content == bytes(range(256))
    assert old.session.get(f"{url}/../a", timeout=10).status_code == 404


def counts():  # type: ignore[no-untyped-def]
    import time

    import runtime

    checkpointer = runtime.Checkpointer("counter.pkl")
    if checkpointer.exists():
        return {"begin": checkpointer.load()["at"]}
    at = 1
    while not runtime.should_pause():
        at += 1
        time.sleep(0.02)
    checkpointer.save({"at": at}, epoch=2, framework="sklearn")
    raise runtime.CooperativePause()


def test_an_old_program_pauses_and_resumes(old: OldClient, daemon: Daemon) -> None:
    code = OldPackager().package_function(counts, [], "x")
    job_id = old.submit(code, job_id="pausing")["job_id"]
    daemon.wait_job(job_id, "running")
    assert old.pause_job(job_id)["paused"] is True
    deadline = time.monotonic() + 30
    while (status := old.get_job_status(job_id))["status"] != "paused":
        assert time.monotonic() < deadline and status["status"] == "running", status
        time.sleep(0.1)
    (checkpoint,) = old.get_checkpoints(job_id)
    assert checkpoint["filename"] == "counter.pkl" and checkpoint["epoch"] == 2
    assert {"path", "step", "framework", "timestamp"} <= set(checkpoint)
    with pytest.raises(requests.HTTPError, match="409"):
        old.delete_job(job_id)
    assert old.resume_job(job_id)["resumed"] is True
    assert old.wait(job_id, timeout=30)["begin"] > 0
    daemon.wait_job(job_id, "ended")
    assert old.delete_job(job_id)["deleted"] is True
    for path in ("", "/results", "/logs", "/checkpoints"):
        gone = old.session.get(f"{old.server_url}/api/jobs/{job_id}{path}", timeout=10)
        assert gone.status_code == 404


def test_the_workers_are_shown(old: OldClient) -> None:
    answer = old.session.get(f"{old.server_url}/api/workers", timeout=10).json()
    assert answer["workers"][0]["devices"][0]["units_total"] == 10_000


class Peak:
    """The most memory that a process had while this was running."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self.before = self.most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def added(self) -> int:
        return self.most - self.before

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._process.memory_info().rss)


GIB = 1 << 30


def form(size: int) -> Iterator[bytes]:
    """A job whose zip is `size` bytes large, made as it is sent: chunked."""
    head = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    for name, text in (("gpu_memory", "0.5"), ("duration", "60")):
        yield (head.format(name, "") + text + "\r\n").encode()
    yield head.format("code", '; filename="code.zip"').encode()
    block = bytes(range(256)) * 4096
    for _ in range(size // len(block)):
        yield block
    # Nothing hinders a zip from standing at the end of something else.
    yield OldPackager().package_files({"main.py": "print('large')"})
    yield b"\r\n--x--\r\n"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gibibyte_adds_little_memory(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra="jobs:\n  package_max_bytes: 2147483648\n").start()
    assert daemon.process is not None
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with Peak(daemon.process.pid) as peak:
        response = requests.post(
            daemon.url + "/api/jobs", data=form(GIB), headers=headers, timeout=300
        )
    assert response.status_code == 200, response.text
    assert peak.added < 50 << 20, f"{peak.added >> 20} MiB"
    (package,) = (daemon.state_dir / "packages").glob("*.zip")
    assert package.stat().st_size > GIB
    package.unlink()  # lest it stay for as long as pytest keeps folders


def test_nobodys_gibibyte_adds_none_and_is_answered_at_once(make_daemon: MakeDaemon) -> None:
    tokens = (
        f"tokens:\n  - {{name: ann, owner: ann, role: client, token_sha256: {hash_token('s')}}}\n"
    )
    daemon = make_daemon(extra=tokens).start()
    assert daemon.process is not None
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for block in form(GIB):
            sent += len(block)
            yield block

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with Peak(daemon.process.pid) as peak:
        try:
            response = requests.post(
                daemon.url + "/api/jobs", data=counted(), headers=headers, timeout=60
            )
        except requests.ConnectionError:
            pass  # it was hung up on, having sent for long enough
        else:
            assert response.status_code == 401
    assert peak.added < 4 << 20, f"{peak.added >> 10} KiB"
    assert not list((daemon.state_dir / "packages/uploads").iterdir())
    # A sender that looks sees it before it has sent anything.
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(daemon.port)], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("HTTP/1.1 401 "), done


_ASK = """
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peer.sendall(b"POST /api/jobs HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1073741824\\r\\n"
             b"Content-Type: multipart/form-data; boundary=x\\r\\n\\r\\n")
print(peer.recv(1000).decode())
"""


def test_an_upload_that_is_cut_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield from (block for _, block in zip(range(8), form(GIB), strict=False))
        raise OSError("the line is dead")

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises((OSError, requests.RequestException)):
        requests.post(daemon.url + "/api/jobs", data=cut(), headers=headers, timeout=30)
    uploads = daemon.state_dir / "packages/uploads"
    deadline = time.monotonic() + 20
    while list(uploads.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(uploads.iterdir())


def test_the_example_needs_nothing_but_http(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(REPOSITORY / "examples/plain_http.py"), daemon.url],
        capture_output=True,
        text=True,
        timeout=60,
        env={},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("submitted job_")
    assert lines[1:] == ["1 of 3", "2 of 3", "3 of 3", "result: {'sum': 6}"]
