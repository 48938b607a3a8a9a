"""A daemon with a token of each role and jobs of one owner, which the tests of who may do what look
at; others on demand, with tokens and TLS."""

import hashlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.e2e.harness import Daemon
from tests.security.authority import Authority
from tests.security.daemons import GuardedDaemon, outside_address

#: Column of a matrix -> role. `ann` owns the jobs, `bob` is another client.
ROLES = {"ann": "client", "bob": "client", "admin": "admin", "viewer": "viewer"}
SUBMIT = """
from cumulus_client import CumulusClient
import json, os, pathlib, sys, time

def leave(seconds=0):
    out = pathlib.Path(os.environ["CUMULUS_OUTPUT_DIR"])
    (out / "note.txt").write_text("a note of ann's")
    print("a line of ann's", flush=True)
    time.sleep(seconds)
    return "a result of ann's"

with CumulusClient("{URL}", "ann-token-ann-token") as client:
    jobs = [client.submit(leave, gpu_memory=0.1, duration=60) for _ in range(4)]
    for job in jobs:
        assert job.result() == "a result of ann's"
    running = client.submit(leave, args=[10_000], gpu_memory=0.1, duration=10_000)
    while client.get_job_status(running.job_id)["status"] != "running":
        time.sleep(0.1)
print(json.dumps([job.job_id for job in jobs] + [running.job_id]))
"""


@attrs.frozen
class World:
    """The daemon, its tokens, and what is ann's."""

    daemon: Daemon
    tokens: dict[str, str | None]  #: by column
    ended: str  #: a job that has ended
    running: str
    spare: list[str]  #: ended ones, to be deleted
    package: tuple[str, int]  #: SHA-256 and size of what they run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    tokens = {name: f"{name}-token-{name}-token" for name in ROLES}
    lines = "".join(
        f"  - {{name: {name}, owner: {name}, role: {role}, "
        f"token_sha256: {hashlib.sha256(tokens[name].encode()).hexdigest()}}}\n"
        for name, role in ROLES.items()
    )
    daemon = Daemon(tmp_path_factory.mktemp("world"), extra=f"tokens:\n{lines}")
    try:
        daemon.start()
        ended, *spare, running = json.loads(daemon.run(SUBMIT, timeout_s=120).stdout)
        package = min((daemon.state_dir / "packages").glob("*.zip"))
        yield World(
            daemon=daemon,
            tokens={**tokens, "none": None, "agent": agents_token(daemon)},
            ended=ended,
            running=running,
            spare=spare,
            package=(package.stem, package.stat().st_size),
        )
        cancel = urllib.request.Request(
            f"{daemon.url}/api/jobs/{running}/cancel",
            method="POST",
            headers={"Authorization": f"Bearer {tokens['ann']}"},
        )
        urllib.request.urlopen(cancel, timeout=30).close()
        daemon.wait_nothing_left()
    finally:
        assert daemon.stop() == -signal.SIGTERM


def agents_token(daemon: Daemon) -> str:
    """One for the agent of a node that has none."""
    command = [sys.executable, "-m", "cumulusd.cli", "token", "create", "--name", "machine"]
    command += ["--role", "agent", "--node", "n9", "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def make_guarded(tmp_path: Path) -> Iterator[Callable[..., GuardedDaemon]]:
    """Makes daemons with tokens, not started; all are stopped at the test's end."""
    made: list[GuardedDaemon] = []

    def make(*listen: str, **options: object) -> GuardedDaemon:
        folder = tmp_path / f"daemon{len(made)}"
        made.append(GuardedDaemon(folder, *listen, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process is not None:
            daemon.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One that nobody trusts unless told to."""
    return Authority(tmp_path / "ca", "root")


@pytest.fixture
def outside() -> str:
    """An address of this machine's that others reach."""
    address = outside_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    return address
