"""What is beneath a daemon that runs jobs: OpenCL drivers that hang and crash, and libchronos."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.unit.chronos.bad_drivers import BadDriver
from tests.unit.chronos.c_libraries import build

pytestmark = pytest.mark.timeout(300)

JOB = """
def three():
    return 3

print(client.run(three, gpu_memory=0.25, duration=60))
"""
LONG = """
def wait():
    import time
    time.sleep(100)

print(json.dumps({"job_id": client.submit(wait, gpu_memory=0.25, duration=120).job_id}))
"""


def worker_when(daemon: Daemon, true: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The one worker, as soon as that holds of it."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        told = daemon.run(HEAD + "print(json.dumps(client.list_workers()[0]))\n")
        worker: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
        if true(worker):
            return worker
    raise AssertionError(f"{worker}\n{daemon.log_text()[-4000:]}")


def test_drivers_that_hang_and_crash_leave_the_agent_answering(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    driver = BadDriver(tmp_path / "drivers")
    driver.order("")
    daemon = make_daemon(extra="chronos: {discovery_interval_s: 1, discovery_timeout_s: 8}\n")
    daemon.environment = driver.environment
    daemon.start()
    known = worker_when(
        daemon, lambda worker: worker["devices"] and worker["discovery_error"] is None
    )
    job_id = last_json(daemon.run(HEAD + LONG).stdout)["job_id"]
    daemon.wait_job(job_id, "running")
    for order, words in (("hang", "no answer within 8 s"), ("crash", "the driver is broken")):
        driver.order(order)
        worker = worker_when(daemon, lambda worker, words=words: words in str(worker["fault"]))  # type: ignore[misc]
        # What was known stays, is shown, and takes jobs.
        assert worker["usable"]
        assert [one["device_id"] for one in worker["devices"]] == [
            one["device_id"] for one in known["devices"]
        ]
        assert daemon.run(HEAD + JOB).stdout.splitlines()[-1] == "3"
        assert daemon.get("/health")[0] == 200
    assert daemon.job(job_id)["status"] == "running"
    daemon.run(HEAD + f"assert client.cancel_job({job_id!r})\n")
    daemon.wait_nothing_left()
    # With nothing known from before: no devices, for a reason, and a worker that answers.
    daemon.stop()
    (daemon.state_dir / "worker" / "ledger.json").unlink()
    daemon.start()
    worker = worker_when(daemon, lambda worker: "is broken" in str(worker["discovery_error"]))
    assert worker["devices"] == [] and worker["agent"] == "present"
    driver.order("")
    worker_when(daemon, lambda worker: worker["devices"])
    assert daemon.run(HEAD + JOB).stdout.splitlines()[-1] == "3"


def test_a_job_whose_device_vanishes_ends_by_name(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    driver = BadDriver(tmp_path / "drivers")
    driver.order("")
    daemon = make_daemon(extra="chronos: {discovery_interval_s: 1}\n")
    daemon.environment = driver.environment
    daemon.start()
    worker_when(daemon, lambda worker: worker["devices"])
    job_id = last_json(daemon.run(HEAD + LONG).stdout)["job_id"]
    daemon.wait_job(job_id, "running")
    vendors = tmp_path / "drivers" / "vendors"
    for icd in vendors.glob("*.icd"):
        if icd.name != "bad.icd":
            icd.unlink()
    job = daemon.wait_job(job_id, "ended", timeout_s=60)
    assert (job["status"], job["end"]["reason"]) == ("failed", "device_lost")
    assert "driver" in job["end"]["message"] and job["end"]["hint"]
    daemon.wait_nothing_left()
    gone = "no longer shown by its driver"
    worker_when(daemon, lambda worker: not worker["devices"] and gone in worker["fault"])
    status, _ = daemon.get("/health")
    assert status == 200


def test_where_libchronos_is_required_it_books_what_jobs_hold(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    folder = tmp_path / "chronos"
    (folder / "locks").mkdir(parents=True)
    (folder / "devices").write_text("1")
    library = build("libchronos_double", folder)
    daemon = make_daemon(extra=f"chronos: {{backend: libchronos, library: {library}}}\n")
    daemon.environment = {"CHRONOS_DOUBLE": str(folder)}
    daemon.start()
    books = {"backend": "libchronos", "fault": None}
    worker_when(daemon, lambda worker: worker["chronos"] == books and worker["usable"])
    assert daemon.run(HEAD + JOB).stdout.splitlines()[-1] == "3"
    calls = (folder / "calls").read_text().splitlines()
    assert sum(line.split()[1:4] == ["create", "0", "0.250"] for line in calls) == 1
    daemon.wait_nothing_left()
    deadline = time.monotonic() + 30
    while list((folder / "locks").iterdir()):
        assert time.monotonic() < deadline, "its booking outlives the job"
        time.sleep(0.05)
