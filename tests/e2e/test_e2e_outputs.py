"""Files that jobs leave to be downloaded, and what they tell of their progress, as users see it."""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon

MIB = 1 << 20

SUBMIT = """
from cumulus_client import CumulusClient
import hashlib, json, os, sys

def write(megabytes=0, then="return"):
    import os, pathlib, sys, time
    out = pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"])
    (out / "sub").mkdir()
    (out / "sub" / "note.txt").write_text("hello")
    with open(out / "big.bin", "wb") as file:
        for number in range(megabytes):
            file.write(bytes([number % 256]) * (1 << 20))
    print("written", flush=True)
    if then == "raise":
        raise ValueError("after the outputs")
    if then == "sleep":
        time.sleep(600)
    return 7

def big(megabytes):
    digest = hashlib.sha256()
    for number in range(megabytes):
        digest.update(bytes([number % 256]) * (1 << 20))
    return digest.hexdigest()

client = CumulusClient("{URL}")
"""


def rss_bytes(pid: int) -> int:
    """Resident memory of a process that isn't of files."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024


def test_outputs_are_listed_and_downloaded(daemon: Daemon) -> None:
    done = daemon.run(
        SUBMIT
        + """
job = client.submit(write, gpu_memory=0.1, duration=60)
assert job.result() == 7
listed = job.outputs()
assert [one["name"] for one in listed] == ["big.bin", "sub/note.txt"], listed
assert listed[1] == {"name": "sub/note.txt", "size_bytes": 5,
                     "sha256": hashlib.sha256(b"hello").hexdigest()}
path = job.download("sub/note.txt")
assert path.read_text() == "hello" and path.name == "note.txt", path
again = client.attach(job.job_id).download("sub/note.txt", "there.txt")
assert again.read_text() == "hello"
assert job.download("big.bin", "empty").stat().st_size == 0
try:
    job.download("none.txt")
except Exception as error:
    print(type(error).__name__, "|", str(error).splitlines()[0])
print(job.job_id)
"""
    )
    refused, job_id = done.stdout.splitlines()[-2:]
    assert "NotFound" in refused
    assert "'none.txt'" in refused
    assert job_id in refused
    assert not list(daemon.folder.glob(".*.part"))
    assert daemon.job(job_id)["end"]["output_count"] == 2
    status, job = daemon.get(f"/api/jobs/{job_id}")
    assert status == 200
    assert [one["name"] for one in job["end"]["outputs"]] == ["big.bin", "sub/note.txt"]
    daemon.wait_nothing_left()


@pytest.mark.parametrize("how", ["raise", "timeout", "cancel"])
def test_a_job_that_did_not_complete_leaves_what_is_there(daemon: Daemon, how: str) -> None:
    done = daemon.run(
        SUBMIT
        + f"how = {how!r}\n"
        + """
job = client.submit(write, gpu_memory=0.1, duration=2 if how == "timeout" else 60,
                    then="raise" if how == "raise" else "sleep")
if how == "cancel":
    for text in job.logs():
        if "written" in text:
            break
    job.cancel()
job.wait()
print(job.status(), [one["name"] for one in job.outputs()])
print(job.download("sub/note.txt").read_text())
"""
    )
    states = {"raise": "failed", "timeout": "timeout", "cancel": "cancelled"}
    assert done.stdout.splitlines() == [
        f"{states[how]} ['big.bin', 'sub/note.txt']",
        "hello",
    ]


def test_what_is_kept_on_the_worker_goes_with_the_job(daemon: Daemon) -> None:
    daemon.run(SUBMIT + "client.run(write, gpu_memory=0.1, duration=60)\n")
    daemon.wait_nothing_left()
    assert not list((daemon.state_dir / "worker" / "kept").iterdir())


def test_outputs_are_deleted_with_their_job(daemon: Daemon) -> None:
    done = daemon.run(
        SUBMIT
        + """
job = client.submit(write, gpu_memory=0.1, duration=60)
job.result()
print(job.job_id)
assert len(job.outputs()) == 2
client.delete_job(job.job_id)
try:
    job.outputs()
except Exception as error:
    print(type(error).__name__)
"""
    )
    job_id, refused = done.stdout.split()
    assert refused == "NotFound"
    assert not (daemon.state_dir / "outputs" / job_id).exists()


def test_outputs_of_a_paused_job_come_at_its_real_end(daemon: Daemon) -> None:
    done = daemon.run(
        """
from cumulus_client import CumulusClient
import time

def work():
    import os, pathlib, time
    import runtime
    out = pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"])
    attempt = os.environ["CUMULUS_ATTEMPT"]
    (out / f"attempt-{attempt}").write_text(attempt)
    if attempt == "1":
        while not runtime.should_pause():
            time.sleep(0.05)
        raise runtime.CooperativePause()
    return sorted(path.name for path in out.iterdir())

client = CumulusClient("{URL}")
job = client.submit(work, gpu_memory=0.1, duration=60)
while job.status() != "running":
    time.sleep(0.05)
job.pause()
while job.status() != "paused":
    time.sleep(0.05)
try:
    job.outputs()
except Exception as error:
    print(type(error).__name__)
job.resume()
print(job.result(timeout=60))
print([one["name"] for one in job.outputs()], job.download("attempt-1").read_text())
"""
    )
    both = "['attempt-1', 'attempt-2']"
    assert done.stdout.splitlines() == ["NotEnded", both, f"{both} 1"]


def test_a_large_output_takes_no_memory_of_the_daemon(daemon: Daemon) -> None:
    daemon.run(SUBMIT + "client.run(write, gpu_memory=0.1, duration=60, megabytes=1)\n")
    assert daemon.process is not None
    before = peak = rss_bytes(daemon.process.pid)
    script = daemon.begin(
        SUBMIT
        + """
job = client.submit(write, gpu_memory=0.1, duration=120, megabytes=300)
assert job.result(timeout=120) == 7
path = job.download("big.bin", "big")
assert path.stat().st_size == 300 << 20
with path.open("rb") as file:
    assert hashlib.file_digest(file, "sha256").hexdigest() == big(300)
print("verified")
""",
        "large.py",
    )
    while script.poll() is None:
        peak = max(peak, rss_bytes(daemon.process.pid))
        time.sleep(0.02)
    out, err = script.communicate()
    assert script.returncode == 0, err
    assert "verified" in out
    assert peak - before < 40 * MIB, f"{(peak - before) / MIB:.0f} MiB more"


def test_a_daemon_killed_in_the_middle_of_a_pull_goes_on(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    done = daemon.run(
        SUBMIT + "print(client.submit(write, gpu_memory=0.1, duration=120, megabytes=300).job_id)\n"
    )
    job_id = done.stdout.strip()
    folder = daemon.state_dir / "outputs" / job_id
    deadline = time.monotonic() + 60

    def parts() -> list[int]:
        return [path.stat().st_size for path in folder.glob("*.part")]

    while not any(5 * MIB < size < 280 * MIB for size in parts()):
        assert time.monotonic() < deadline, daemon.log_text()[-3000:]
        assert daemon.job(job_id)["end"] is None
        time.sleep(0.005)
    daemon.kill()
    held = max(parts())
    assert held
    daemon.start()
    daemon.wait_job(job_id, "ended", timeout_s=60)
    done = daemon.run(
        SUBMIT
        + f"job = client.attach({job_id!r})\n"
        + "path = job.download('big.bin', 'big')\n"
        + "with path.open('rb') as file:\n"
        + "    assert hashlib.file_digest(file, 'sha256').hexdigest() == big(300)\n"
        + "print(job.view()['status'], len(job.outputs()), job.view()['end']['outputs_note'])\n"
    )
    assert done.stdout.split() == ["completed", "2", "None"]
    daemon.wait_nothing_left()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_download_goes_on_when_the_daemon_restarts(
    make_daemon: Callable[..., Daemon], how: str
) -> None:
    daemon = make_daemon().start()
    done = daemon.run(
        SUBMIT
        + "job = client.submit(write, gpu_memory=0.1, duration=120, megabytes=200)\n"
        + "assert job.result() == 7\n"
        + "print(job.job_id)\n"
    )
    job_id = done.stdout.strip()
    script = daemon.begin(
        SUBMIT
        + f"job = client.attach({job_id!r})\n"
        + "path = job.download('big.bin', 'big')\n"
        + "with path.open('rb') as file:\n"
        + "    print(hashlib.file_digest(file, 'sha256').hexdigest() == big(200))\n",
        "download.py",
    )
    deadline = time.monotonic() + 60
    while not any(
        MIB < path.stat().st_size < 190 * MIB for path in daemon.folder.glob(".cumulus-*.part")
    ):
        assert time.monotonic() < deadline
        assert script.poll() is None
        time.sleep(0.002)
    daemon.kill() if how == "kill" else daemon.stop()
    daemon.start()
    out, err = script.communicate(timeout=90)
    assert out == "True\n", err


def test_another_owner_sees_nothing_of_them(make_daemon: Callable[..., Daemon]) -> None:
    tokens = {name: f"token-of-{name}-0123456789abcdef" for name in ("ann", "bob")}
    entries = "".join(
        f"  - {{name: {name}, owner: {name}, role: client, token_sha256: "
        f"{hashlib.sha256(token.encode()).hexdigest()}}}\n"
        for name, token in tokens.items()
    )
    daemon = make_daemon(extra=f"tokens:\n{entries}").start()
    done = daemon.run(
        SUBMIT.replace('("{URL}")', f'("{{URL}}", api_key={tokens["ann"]!r})')
        + "job = client.submit(write, gpu_memory=0.1, duration=60)\n"
        + "job.result()\nprint(job.job_id)\n"
    )
    job_id = done.stdout.strip()
    done = daemon.run(
        f"""
import asyncio
from cumulus_client.connection import Connection
from cumulus_client._download import download

async def look():
    connection = Connection("{daemon.url}", {tokens["bob"]!r})
    for work in (
        connection.call("cumulus.job.outputs", {{"job_id": {job_id!r}}}),
        download(connection, {job_id!r}, "sub/note.txt", "stolen"),
    ):
        try:
            await work
        except Exception as error:
            print(type(error).__name__)
    await connection.close()

asyncio.run(look())
"""
    )
    assert done.stdout.split() == ["NotFound", "NotFound"]
    assert not (daemon.folder / "stolen").exists()


def test_progress_is_shown_in_views_and_to_followers(daemon: Daemon) -> None:
    script = daemon.begin(
        """
from cumulus_client import CumulusClient

def work():
    import pathlib, os, time
    import runtime
    runtime.progress(0.25, "epoch 1")
    while not os.path.exists({FOLDER!r}):
        time.sleep(0.05)
    runtime.progress(1.0, "done")
    return 3

client = CumulusClient("{URL}")
print(client.run(work, gpu_memory=0.1, duration=60))
""".replace("{FOLDER!r}", repr(str(daemon.folder / "go"))),
        "progress.py",
    )
    deadline = time.monotonic() + 40
    while True:
        jobs = daemon.jobs()
        if jobs and jobs[0]["progress"]:
            break
        assert time.monotonic() < deadline, json.dumps(jobs)
        time.sleep(0.05)
    assert jobs[0]["progress"] == {"fraction": 0.25, "message": "epoch 1"}
    (daemon.folder / "go").touch()
    out, err = script.communicate(timeout=60)
    assert out == "3\n"
    assert "[cumulus] 25% epoch 1" in err
    assert "[cumulus] 100% done" in err
    assert daemon.jobs()[0]["progress"] is None


def test_the_example_downloads_what_its_script_left(daemon: Daemon) -> None:
    done = subprocess.run(
        [PYTHON, str(REPOSITORY / "examples" / "script_with_outputs.py"), daemon.url],
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        cwd=daemon.folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "wrote 1000 points"
    assert lines[1].startswith("summary.txt: ")
    assert lines[2].startswith("tables/sine.csv: ")
    assert lines[3] == "1000 points, mean square 0.500"
