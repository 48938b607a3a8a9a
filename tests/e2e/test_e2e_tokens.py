"""Tokens of a running daemon, made and revoked by the command as an operator does it."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon
from tests.next_line import next_line

#: Each starts several processes, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(300)

MakeDaemon = Callable[..., Daemon]
Follow = Callable[..., "Following"]

FOLLOW = """\
import sys, time
from cumulus_client import CumulusClient
from cumulus_client.exceptions import NotAuthenticated

def work():
    import time
    for number in range(6000):
        print("step", number, flush=True)
        time.sleep(0.1)

client = CumulusClient("{URL}", api_key=KEY)
job = client.submit(work, duration=900)
print("job", job.job_id, flush=True)
try:
    for line in job.logs(follow=True):
        print("seen", flush=True)
except NotAuthenticated as error:
    print("refused:", " ".join(str(error).split()), flush=True)
    try:
        client.list_jobs()
    except NotAuthenticated as again:
        print("again:", " ".join(str(again).split()), flush=True)
"""

JOIN = """\
import asyncio, json, sys
from autobahn.asyncio.component import Component

method, options = json.loads(sys.argv[2])
where = {"type": "websocket", "url": sys.argv[1], "serializers": ["json"], "max_retries": 0}
component = Component(
    transports=[where],
    realm="cumulus",
    authentication={method: options},
)

@component.on_join
async def joined(session, details):
    print("joined", details.authid, details.authrole, details.authmethod, flush=True)

@component.on_leave
async def left(session, details):
    print("left", details.reason, details.message, flush=True)

async def main():
    try:
        await asyncio.wait_for(component.start(loop=asyncio.get_running_loop()), 60)
    except Exception as error:
        print("failed", type(error).__name__, flush=True)

asyncio.run(main())
"""


def token(
    daemon: Daemon, *arguments: str, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """`cumulusd token …` for that daemon."""
    done = subprocess.run(
        [PYTHON, "-m", "cumulusd.cli", "token", *arguments, "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def made(daemon: Daemon, name: str, *arguments: str) -> str:
    """A new token, as a pipe would get it."""
    words = ["--name", name, *arguments]
    if "--role" not in arguments:
        words += ["--role", "client"]
    lines = token(daemon, "create", *words).stdout.splitlines()
    assert len(lines) == 1
    return lines[0]


def listed(daemon: Daemon) -> dict[str, dict[str, Any]]:
    tokens = json.loads(token(daemon, "list", "--json").stdout)
    return {one["name"]: one for one in tokens}


class Following:
    """A user's script that submits a job and follows it."""

    def __init__(self, daemon: Daemon, key: str | None, name: str) -> None:
        self.job_id = ""
        self.process = daemon.begin(f"KEY = {key!r}\n" + FOLLOW, name)
        assert self.process.stdout is not None

    def wait(self) -> "Following":
        """Returns once it sees its job's output."""
        assert self.process.stdout is not None
        words = next_line(self.process).split()
        assert words[:1] == ["job"], words
        self.job_id = words[1]
        assert next_line(self.process) == "seen\n"
        return self

    def kill(self) -> None:
        """Ends it, whatever it does; one that ended by itself has its pipes closed."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def end(self) -> str:
        """What it said last; it ends by itself."""
        text, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return "\n".join(line for line in text.splitlines() if line != "seen")


@pytest.fixture
def follow() -> Iterator[Callable[..., Following]]:
    """Begins to follow; all scripts are ended with the test."""
    begun: list[Following] = []

    def begin(daemon: Daemon, key: str | None, name: str) -> Following:
        begun.append(Following(daemon, key, name))
        return begun[-1].wait()

    yield begin
    for each in begun:
        each.kill()


def cancel(daemon: Daemon, job_id: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{daemon.url}/api/jobs/{job_id}/cancel"
    assert requests.post(url, headers=headers, timeout=30).status_code == 200


def gone(daemon: Daemon, *job_ids: str, key: str) -> None:
    """Returns once these have ended, and nothing of them is left."""
    for job_id in job_ids:
        cancel(daemon, job_id, key)
    daemon.wait_nothing_left()


def test_a_revoked_token_cuts_who_follows_by_it(make_daemon: MakeDaemon, follow: Follow) -> None:
    daemon = make_daemon().start()
    admin = made(daemon, "root", "--role", "admin")
    ann, bob = made(daemon, "ann"), made(daemon, "bob")
    first, second = follow(daemon, ann, "ann.py"), follow(daemon, bob, "bob.py")
    events: list[str] = []
    headers = {"Authorization": f"Bearer {ann}", "Accept": "text/event-stream"}
    stream = requests.get(
        f"{daemon.url}/api/jobs/{first.job_id}/logs", headers=headers, stream=True, timeout=30
    )
    assert stream.status_code == 200
    reading = threading.Thread(
        target=lambda: events.extend(stream.iter_lines(decode_unicode=True)), daemon=True
    )
    reading.start()
    said = token(daemon, "revoke", "ann")
    assert "is revoked" in said.stderr and said.stdout == ""
    refused, again = first.end().splitlines()
    assert refused.startswith("refused:") and "the token 'ann' was revoked" in refused
    assert f"job: {first.job_id}" in refused, "which job it is that goes on"
    assert again.startswith("again:") and "does not accept this API key" in again
    reading.join(30)
    assert not reading.is_alive()
    stream.close()
    assert events[-3] == "event: error" and "was revoked" in events[-2], events[-4:]
    assert daemon.get("/api/jobs", ann)[0] == 401
    # Others go on, and the job too.
    assert second.process.poll() is None and daemon.get("/api/jobs", bob)[0] == 200
    assert daemon.get(f"/api/jobs/{first.job_id}", admin)[1]["status"] == "running"
    for _ in range(2):
        daemon.kill()
        daemon.start()
        assert daemon.get("/api/jobs", ann)[0] == 401 == daemon.get("/api/jobs")[0]
        assert daemon.get("/api/jobs", bob)[0] == 200
    assert second.process.poll() is None, "it came back by itself"
    assert sorted(listed(daemon)) == ["agent-local", "bob", "root"]
    text = daemon.log_text()
    assert "token 'ann' (client of ann) was revoked by uid" in text
    assert not any(secret in text for secret in (ann, bob, admin))
    gone(daemon, first.job_id, second.job_id, key=admin)


def test_the_first_token_closes_an_open_daemon_at_once(
    make_daemon: MakeDaemon, follow: Follow
) -> None:
    daemon = make_daemon().start()
    anybody = follow(daemon, None, "anybody.py")
    assert daemon.get("/api/jobs")[0] == 200
    local = made(daemon, "me", "--owner", "local")
    said = anybody.end()
    assert "takes nobody without a token any more" in said and "no token" not in said
    assert daemon.get("/api/jobs")[0] == 401 == daemon.get("/api/jobs", "wrong" * 8)[0]
    assert [job["job_id"] for job in daemon.get("/api/jobs", local)[1]] == [anybody.job_id]
    token(daemon, "revoke", "me")
    assert daemon.get("/api/jobs")[0] == 401, "taking the last one away opens nothing"
    assert daemon.stop() == -signal.SIGTERM
    daemon.start()
    assert daemon.get("/api/jobs")[0] == 401
    admin = made(daemon, "root", "--role", "admin")
    gone(daemon, anybody.job_id, key=admin)


def test_a_token_expires_under_who_uses_it(make_daemon: MakeDaemon, follow: Follow) -> None:
    daemon = make_daemon().start()
    admin = made(daemon, "root", "--role", "admin")
    short = made(daemon, "short", "--expires", "30s")
    following = follow(daemon, short, "short.py")
    said = following.end()
    assert "the token 'short' has expired" in said and "again:" in said
    assert daemon.get("/api/jobs", short)[0] == 401
    assert listed(daemon)["short"]["expired"] is True
    table = token(daemon, "list").stdout
    assert "(expired)" in table and short not in table
    gone(daemon, following.job_id, key=admin)


def test_errors_say_what_to_do(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    socket_path = daemon.state_dir / "admin.sock"
    refused = token(daemon, "list", check=False)
    assert refused.returncode == 69 and str(socket_path) in refused.stderr
    assert "is cumulusd running" in refused.stderr and refused.stdout == ""
    daemon.start()
    made(daemon, "ann")
    for arguments, words, code in (
        (["create", "--name", "ann", "--role", "client"], "choose another name", 69),
        (["create", "--name", "bob", "--role", "boss"], "client, viewer, admin, agent", 2),
        (["revoke", "nobody"], "cumulusd token list", 69),
        (["revoke", "agent-local"], "of an agent", 69),
    ):
        refused = token(daemon, *arguments, check=False)
        assert refused.returncode == code, refused
        assert words in refused.stderr and refused.stdout == "", refused.stderr
    refused = token(
        daemon, "create", "--name", "n", "--role", "client", "--expires", "soon", check=False
    )
    assert refused.returncode == 2 and "2030-01-31" in refused.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="cumulus-admin-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_may_make_one(make_daemon: MakeDaemon, open_folder: Path) -> None:
    path = open_folder / "admin.sock"
    daemon = make_daemon(extra=f"admin_socket: {path}\n").start()
    asks = (
        "import os\n"
        "from cumulusd.admin.client import AdminClient\n"
        "from pathlib import Path\n"
        "os.setgroups([]); os.setuid(54321)\n"
        "try:\n"
        f"    AdminClient(Path({str(path)!r})).create_token({{'name': 'x', 'role': 'admin'}})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error, error.hint)\n"
    )

    def asked() -> str:
        done = subprocess.run(
            [sys.executable, "-c", asks],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        return done.stdout

    said = asked()
    assert said.startswith(f"NotAuthorized {path} may not be opened by this user"), said
    os.chmod(path, 0o666)
    said = asked()
    assert said.startswith("NotAuthorized uid 54321 may not manage this daemon"), said
    assert list(listed(daemon)) == ["agent-local"] and daemon.get("/api/jobs")[0] == 200


def test_a_dead_daemons_socket_is_no_obstacle(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    daemon.kill()
    assert (daemon.state_dir / "admin.sock").exists()
    daemon.start()
    ann = made(daemon, "ann")
    began = time.time()
    assert daemon.get("/api/jobs", ann)[0] == 200
    assert abs(listed(daemon)["ann"]["created_at"] - began) < 60


def test_tokens_of_the_configuration_are_read_again(
    make_daemon: MakeDaemon, follow: Follow
) -> None:
    keys = {name: name * 10 for name in ("first", "second")}

    def entry(name: str) -> str:
        digest = hashlib.sha256(keys[name].encode()).hexdigest()
        return f"  - {{name: {name}, owner: o, role: admin, token_sha256: '{digest}'}}\n"

    daemon = make_daemon(extra="tokens:\n" + entry("first")).start()
    mine = made(daemon, "mine", "--role", "viewer")
    assert listed(daemon)["first"]["source"] == "configuration"
    refused = token(daemon, "revoke", "first", check=False)
    assert refused.returncode == 69 and "SIGHUP" in refused.stderr
    following = follow(daemon, keys["first"], "first.py")
    text = daemon.config.read_text()

    def reread(tokens: str, told: str) -> None:
        before = daemon.log_text().count(told)
        daemon.config.write_text(text.partition("tokens:")[0] + tokens)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while daemon.log_text().count(told) == before:
            assert time.monotonic() < deadline, daemon.log_text()[-3000:]
            time.sleep(0.05)

    reread("tokens: 7\n", "nothing is changed")
    assert daemon.get("/api/jobs", keys["first"])[0] == 200
    reread("tokens:\n" + entry("second"), "reloaded")
    said = following.end()
    assert "taken out of the daemon's configuration" in said, said
    for key, status in ((keys["first"], 401), (keys["second"], 200), (mine, 200), (None, 401)):
        assert daemon.get("/api/jobs", key)[0] == status
    gone(daemon, following.job_id, key=keys["second"])
    reread("", "reloaded")
    assert daemon.get("/api/jobs")[0] == 401, "a running daemon never opens"
    assert daemon.get("/api/jobs", mine)[0] == 200


def test_any_wamp_client_logs_in_by_what_was_made_and_is_told_its_end(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw().hex()
    secret = made(daemon, "ann", "--owner", "lab", "--public-key", public)
    logins = {
        "ticket": {"authid": "ann", "ticket": secret},
        "scram": {"authid": "ann", "password": secret},
        "cryptosign": {"authid": "ann", "privkey": private.private_bytes_raw().hex()},
    }
    script = tmp_path / "join.py"
    script.write_text(JOIN)

    def begin(method: str) -> "subprocess.Popen[str]":
        url = f"ws://127.0.0.1:{daemon.port}/ws"
        return subprocess.Popen(
            [PYTHON, str(script), url, json.dumps([method, logins[method]])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    with contextlib.ExitStack() as running:
        peers = {method: running.enter_context(begin(method)) for method in logins}
        for peer in peers.values():
            running.callback(peer.kill)
        for method, peer in peers.items():
            assert peer.stdout is not None
            said = next((line for line in peer.stdout if line.startswith("joined")), "")
            assert said == f"joined ann client {method}\n"
        token(daemon, "revoke", "ann")
        for peer in peers.values():
            said = peer.communicate(timeout=60)[0]
            assert "left wamp.error.not_authenticated the token 'ann' was revoked" in said, said
    for method in logins:
        said = begin(method).communicate(timeout=90)[0]
        assert "joined" not in said and "failed" in said, said
