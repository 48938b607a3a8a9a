"""What there is to see on a page: real jobs of a real daemon, of several owners and ends."""

import hashlib
import json
import time
import urllib.request

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
