"""A full disk, at the daemon and on the worker: real ones, on small file systems of their own."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json

MakeDaemon = Callable[..., Daemon]
MIB = 1 << 20

#: Prints 400 lines of 4 KB within some seconds, whatever becomes of them.
TALKER = """
def talk():
    import os, time
    for number in range(400):
        os.write(1, b"%d " % number + b"x" * 4000 + b"\\n")
        time.sleep(0.01)
    return "done"
"""

SUBMIT = (
    HEAD
    + TALKER
    + """
job = client.submit(talk, duration=600)
next(iter(job.logs(follow=True)))
print(json.dumps({"job_id": job.job_id}))
"""
)

READ = (
    HEAD
    + """
job = client.attach("{JOB}")
assert job.result(timeout=60) == "done"
text = "".join(job.logs())
print(json.dumps({"exact": text == "".join(f"{n} {'x' * 4000}\\n" for n in range(400))}))
"""
)

TRY = (
    HEAD
    + """
def small():
    return 1
try:
    print(json.dumps({"result": client.run(small, duration=60)}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
)


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, int], Path]]:
    """Mounts a small file system on a folder; all are gone at the end."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    with ExitStack() as stack:

        def mount(folder: Path, size_bytes: int) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            options = f"size={size_bytes},mode=755"
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "cumulus-test", str(folder)],
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return folder

        yield mount


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_an_upload_that_the_disk_has_no_room_for_is_refused_as_it_comes(
    make_daemon: MakeDaemon, mounted: Callable[[Path, int], Path]
) -> None:
    daemon = make_daemon(extra=f"jobs: {{min_free_bytes: {16 * MIB}}}\n")
    mounted(daemon.state_dir, 64 * MIB)
    daemon.start()
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="code"\r\n\r\n'
        for _ in range(400):
            sent += 1
            yield bytes(MIB)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = requests.post(f"{daemon.url}/api/jobs", data=body(), headers=headers, timeout=60)
    except requests.ConnectionError:
        assert sent < 400, "it was hung up on"
    else:
        assert answer.status_code == 503
        assert answer.json()["details"]["min_free_bytes"] == 16 * MIB
    assert not list((daemon.state_dir / "packages/uploads").iterdir())
    assert daemon.get("/health")[0] == 200


def _answers(daemon: Daemon) -> bool:
    assert daemon.process is not None and daemon.process.poll() is None, daemon.log_text()[-4000:]
    try:
        return daemon.get("/health/live")[0] == 200
    except OSError:
        return False


def settle(daemon: Daemon, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, daemon.log_text()[-4000:]
        time.sleep(0.1)


def test_a_full_disk_of_the_daemon_refuses_new_jobs_and_loses_nothing(
    make_daemon: MakeDaemon, mounted: Callable[[Path, int], Path]
) -> None:
    daemon = make_daemon(extra=f"jobs: {{min_free_bytes: {4 * MIB}}}\n")
    state = mounted(daemon.state_dir, 48 * MIB)
    mounted(state / "worker", 256 * MIB)
    try:
        daemon.start()
        job_id = last_json(daemon.run(SUBMIT).stdout)["job_id"]
        filler = fill(state)
        settle(daemon, lambda: daemon.get("/health")[1]["parts"]["journals"] != "ok")
        status, health = daemon.get("/health")
        assert status == 503
        assert "bytes free" in health["parts"]["disk"] and str(state) in health["parts"]["disk"]
        refused = last_json(daemon.run(TRY).stdout)
        assert refused["error"] == "Unavailable", refused
        assert "bytes free" in refused["message"] and str(state) in refused["message"]
        journal = state / "worker/jobs" / job_id / "journal"
        settle(daemon, lambda: any(b'"outcome"' in each.read_bytes() for each in journal.iterdir()))
        assert daemon.job(job_id)["end"] is None
        log = daemon.log_text()
        assert log.count("can't be written") < 20, log[-4000:]

        daemon.kill()
        daemon.start(wait=False)
        settle(daemon, lambda: _answers(daemon))
        assert daemon.get("/health")[0] == 503
        assert daemon.job(job_id)["end"] is None

        filler.unlink()
        daemon.wait_job(job_id, "ended", timeout_s=60)
        assert last_json(daemon.run(READ.replace("{JOB}", job_id)).stdout) == {"exact": True}
        daemon.wait_healthy(30)
        assert last_json(daemon.run(TRY).stdout) == {"result": 1}
        daemon.wait_nothing_left()
    finally:
        daemon.stop()


def test_a_full_disk_of_a_worker_lets_new_jobs_wait_and_loses_nothing(
    make_daemon: MakeDaemon, mounted: Callable[[Path, int], Path]
) -> None:
    daemon = make_daemon(extra=f"jobs: {{min_free_bytes: {4 * MIB}}}\n")
    worker = mounted(daemon.state_dir / "worker", 48 * MIB)
    try:
        daemon.start()
        job_id = last_json(daemon.run(SUBMIT).stdout)["job_id"]
        filler = fill(worker)
        waiting = daemon.begin(TRY, "waiting.py")
        settle(
            daemon,
            lambda: any(
                job["wait"] is not None and "takes no jobs" in job["wait"]["message"]
                for job in daemon.jobs()
            ),
        )
        (pending,) = [job for job in daemon.jobs() if job["status"] == "pending"]
        assert "bytes free" in pending["wait"]["details"]["faulty"][0]["fault"]
        listed = last_json(
            daemon.run(HEAD + "print(json.dumps({'workers': client.list_workers()}))").stdout
        )
        assert "bytes free" in listed["workers"][0]["fault"]
        assert listed["workers"][0]["usable"] is False

        filler.unlink()
        daemon.wait_job(job_id, "ended", timeout_s=60)
        assert last_json(daemon.run(READ.replace("{JOB}", job_id)).stdout) == {"exact": True}
        out, err = waiting.communicate(timeout=60)
        assert last_json(out) == {"result": 1}, err
        daemon.wait_nothing_left()
    finally:
        daemon.stop()
