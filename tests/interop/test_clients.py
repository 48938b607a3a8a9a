"""The daemon as it is delivered, driven by WAMP clients that others wrote: each runs jobs in each
serialisation and logs in by each method it knows."""

import hashlib
import json
import secrets
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cumulus_wire.journal import FrameParser, Kind
from tests.e2e.harness import PYTHON, Daemon
from tests.interop.clients import CLIENTS, Client, run

#: Clients are installed, the first time, in the time of their first test.
pytestmark = pytest.mark.timeout(600)
PEER_TIMEOUT_S = 120.0
NAME = "anne"
JOBS = {
    "follow": "for n in range(3):\n    print('step', n, '\\N{SNOWMAN}', flush=True)\n",
    "stop": "import time\nprint('begun', flush=True)\ntime.sleep(600)\n",
}


@attrs.frozen
class Site:
    """A daemon, and somebody who may use it."""

    daemon: Daemon
    token: str
    private_key: str
    public_key: str
    jobs: dict[str, dict[str, Any]]

    def secret(self, method: str) -> str:
        return self.private_key if method == "cryptosign" else self.token


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clients")
    daemon = Daemon(folder / "daemon")
    try:
        daemon.start()
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw().hex()
        command = [str(Path(PYTHON).with_name("cumulusd")), "token", "create"]
        made = subprocess.run(
            [
                *command,
                *("--name", NAME, "--role", "client", "--public-key", public),
                *("--config", str(daemon.config)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        jobs = {name: package(folder, name, code) for name, code in JOBS.items()}
        yield Site(daemon, made.stdout.strip(), private.private_bytes_raw().hex(), public, jobs)
    finally:
        daemon.stop()


def package(folder: Path, name: str, code: str) -> dict[str, Any]:
    """A zip with a script, and the specification of a job that runs it."""
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        about = {"version": 1, "kind": "script", "path": "main.py", "argv": []}
        archive.writestr("cumulus_package.json", json.dumps(about))
        archive.writestr("main.py", code)
    data = path.read_bytes()
    about = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return {
        "path": str(path),
        "spec": {"package": about, "gpu_memory": 0.1, "duration_s": 300, "name": name},
    }


def combinations() -> Iterator[Any]:
    """Each serialisation with the first method, each other method once."""
    for client in CLIENTS:
        for serializer in client.serializers:
            yield pytest.param(
                client, serializer, client.methods[0], id=f"{client.name}-{serializer}"
            )
        for number, method in enumerate(client.methods[1:]):
            serializer = client.serializers[number % len(client.serializers)]
            yield pytest.param(client, serializer, method, id=f"{client.name}-{method}")


@pytest.mark.parametrize(("client", "serializer", "method"), list(combinations()))
def test_it_runs_jobs(client: Client, serializer: str, method: str, site: Site) -> None:
    orders = {
        "url": f"ws://127.0.0.1:{site.daemon.port}/ws",
        "serializer": serializer,
        "method": method,
        "authid": NAME,
        "secret": site.secret(method),
        "public_key": site.public_key,
        **site.jobs,
    }
    found: Any = run(client, orders, PEER_TIMEOUT_S)

    assert (found["authid"], found["authrole"]) == (NAME, "client")
    assert found["authmethod"] == method
    error = found["error"]
    assert error["uri"] == "cumulus.error.not_found"
    assert "nothing" in error["args"][0]
    assert error["kwargs"]["job_id"] == "nothing"
    assert (error["kwargs"]["code"], error["kwargs"]["status"]) == ("not_found", 404)
    assert set(error["kwargs"]) == {"code", "status", "job_id", "details", "hint"}

    followed = found["followed"]
    assert (followed["end"], followed["status"]) == ("end", "completed")
    assert followed["kinds"][0] == "accepted"
    assert {"state", "journal"} <= set(followed["kinds"])
    assert output(bytes.fromhex(followed["frames"])) == "".join(f"step {n} ☃\n" for n in range(3))

    assert found["stopped"] == {"cancelled": True, "status": "cancelled", "topic": "cancelled"}
    site.daemon.wait_nothing_left()


def output(frames: bytes) -> str:
    """The job's stdout."""
    records = FrameParser().feed(frames)
    return b"".join(each.payload for each in records if each.kind == Kind.STDOUT).decode()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_wrong_token_is_refused(client: Client, site: Site) -> None:
    orders = {
        "url": f"ws://127.0.0.1:{site.daemon.port}/ws",
        "serializer": client.serializers[0],
        "method": "ticket",
        "authid": NAME,
        "secret": secrets.token_urlsafe(32),
        **site.jobs,
    }
    with pytest.raises(AssertionError, match=r"not_authenticated|not known"):
        run(client, orders, PEER_TIMEOUT_S)
