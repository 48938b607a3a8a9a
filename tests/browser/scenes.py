"""What there is to see on a page: real jobs of a real daemon, of several owners and ends."""

import hashlib
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import codec
from cumulusd.jobs.model import End, JobRecord, JobSpec, Phase
from cumulusd.jobs.store_file import StoreFile, store_path
from tests.e2e.harness import Daemon

#: Owner -> role, of the tokens that a daemon with `TOKENS` has.
ROLES = {"ann": "client", "bob": "client", "ops": "admin", "eve": "viewer"}


def token_of(name: str) -> str:
    """That owner's token on a daemon with `TOKENS`."""
    return f"token-of-{name}-0123456789"


def _hash_of(name: str) -> str:
    return hashlib.sha256(token_of(name).encode()).hexdigest()


TOKENS = "tokens:\n" + "".join(
    f"  - {{name: {name}, owner: {name}, role: {role}, token_sha256: {_hash_of(name)}}}\n"
    for name, role in ROLES.items()
)


_SUBMIT = """\
import json
from cumulus_client import CumulusClient

def train(epochs, pause_s):
    import time
    from runtime import progress
    for epoch in range(1, epochs + 1):
        print(f"epoch {{epoch}}/{{epochs}}: loss {{1 / epoch:.4f}}", flush=True)
        progress(epoch / epochs, f"epoch {{epoch}} of {{epochs}}")
        time.sleep(pause_s)
    return {{"loss": 1 / epochs}}

def fail():
    print("reading data/measurements.csv", flush=True)
    raise FileNotFoundError("data/measurements.csv is not in the package")

client = CumulusClient("{url}", {token!r})
what = {{"train": train, "fail": fail}}
made = []
for function, arguments, options in json.loads({jobs!r}):
    job = client.submit(what[function], args=arguments, **options)
    made.append(job.job_id)
print(json.dumps(made))
"""


def submit(
    daemon: Daemon, jobs: list[tuple[str, list[object], dict[str, object]]], owner: str = ""
) -> list[str]:
    """Submits jobs as that owner (none: on a daemon without tokens); their ids.

    Each is ("train", [epochs, pause_s], options of submit) or ("fail", [], options)."""
    text = _SUBMIT.format(
        url=daemon.url, token=token_of(owner) if owner else None, jobs=json.dumps(jobs)
    )
    made = json.loads(daemon.run(text).stdout.splitlines()[-1])
    assert isinstance(made, list)
    return made


def wait_state(daemon: Daemon, job_id: str, status: str, token: str | None = None) -> None:
    """Returns once the job has that state."""
    deadline = time.monotonic() + 60.0
    while True:
        _, job = daemon.get(f"/api/jobs/{job_id}", token)
        if job["status"] == status:
            return
        assert time.monotonic() < deadline, f"{job}\n{daemon.log_text()[-3000:]}"
        time.sleep(0.05)


def cancel(daemon: Daemon, job_id: str, token: str | None = None) -> None:
    """Cancels a job and waits until it has left its worker."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{daemon.url}/api/jobs/{job_id}/cancel"
    request = urllib.request.Request(url, method="POST", headers=headers)
    urllib.request.urlopen(request, timeout=30).close()
    wait_state(daemon, job_id, "cancelled", token)


def ended_jobs(daemon: Daemon, count: int, **changes: Any) -> None:
    """Puts so many jobs into the history of a daemon that isn't started: every tenth failed, of
    ann and bob in turn, each a second after the one before."""
    daemon.state_dir.mkdir(parents=True, exist_ok=True)
    file = StoreFile(store_path(daemon.state_dir))
    file.lock()
    file.make_if_missing()
    connection = file.connect()
    file.check_and_upgrade(connection)
    began = time.time() - 2 * count
    with connection:
        connection.executemany(
            "INSERT INTO jobs VALUES (?, ?)",
            [
                (f"job_{number:06d}", codec.dumps(_ended(number, began + number, changes)))
                for number in range(count)
            ],
        )
    connection.close()
    file.unlock()


def _ended(number: int, at: float, changes: Mapping[str, Any]) -> JobRecord:
    failed = number % 10 == 9
    spec = JobSpec(
        package_sha256="ab" * 32,
        package_size_bytes=10,
        gpu_memory=0.25,
        duration_s=60.0,
        name=f"sweep {number}",
    )
    end = End(
        state=JobState.FAILED if failed else JobState.COMPLETED,
        reason=EndReason.USER_ERROR if failed else None,
        message=f"ValueError: no data for {number}" if failed else "it completed",
    )
    record = JobRecord(
        job_id=f"job_{number:06d}",
        owner=("ann", "bob")[number % 2],
        spec=spec,
        phase=Phase.ENDED,
        created_at=at,
        started_at=at + 1,
        ended_at=at + 2,
        end=end,
    )
    return attrs.evolve(record, **changes)
