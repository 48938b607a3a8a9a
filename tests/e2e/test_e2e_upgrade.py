"""The daemon is replaced under load, as an upgrade does: nothing is lost, nothing is there twice.

Clients submit, follow and upload all the while. Beside them, where systemd holds the socket,
somebody connects without pause, and is refused never.
"""

import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Daemon
from tests.security.authority import Authority

MakeDaemon = Callable[..., Daemon]
TOKEN = "the-token-of-the-client-under-load"
STEPS = 300
MEMORY = 0.05  #: of the device: all of them run at once
HEAD = f"""\
import json, os, sys, time
from cumulus_client import CumulusClient
client = CumulusClient("{{URL}}", api_key="{TOKEN}")

def until_enough():
    number = 0
    while not os.path.exists("enough"):
        yield number
        number += 1
"""
#: One job after the other, each with its number: told in the end which came back as what.
SUBMITTING = (
    HEAD
    + f"""
def answer(number):
    print("number", number)
    return number

jobs = []
for number in until_enough():
    jobs.append(client.submit(answer, number=number, gpu_memory={MEMORY}, duration=300))
    print("submitted", number, flush=True)
    time.sleep(0.3)
results = {{job.job_id: job.result(timeout=120) for job in jobs}}
texts = {{job.job_id: "".join(job.logs()) for job in jobs}}
print(json.dumps({{"results": results, "texts": texts}}))
"""
)
FOLLOWING = (
    HEAD
    + f"""
def steps(count):
    import time
    for number in range(count):
        print("step", number, flush=True)
        time.sleep(0.05)
    return count

job = client.submit(steps, count={STEPS}, gpu_memory={MEMORY}, duration=300)
lines = []
for line in job.logs(follow=True):
    if not lines:
        print("following", flush=True)
    lines.append(line)
result = job.result(timeout=120)
print(json.dumps({{"job_id": job.job_id, "text": "".join(lines), "result": result}}))
"""
)
#: A file of some megabytes, another each time: its hash as the job has it must be what went out.
UPLOADING = (
    HEAD
    + f"""
import hashlib
from pathlib import Path

def digest():
    import hashlib
    return hashlib.sha256(open("large.bin", "rb").read()).hexdigest()

sent, jobs = {{}}, []
for number in until_enough():
    large = Path("large.bin")
    large.write_bytes(os.urandom(6_000_000))
    wanted = hashlib.sha256(large.read_bytes()).hexdigest()
    job = client.submit(digest, files=[str(large)], gpu_memory={MEMORY}, duration=300)
    sent[job.job_id] = wanted
    jobs.append(job)
    print("uploaded", number, flush=True)
    time.sleep(0.5)
print(json.dumps({{"sent": sent, "had": {{job.job_id: job.result(timeout=120) for job in jobs}}}}))
"""
)


class Load:
    """The clients at work; `end` lets them finish, and tells what each of them has seen."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._scripts = {
            name: self._begin(name, text)
            for name, text in (
                ("submitting", SUBMITTING),
                ("following", FOLLOWING),
                ("uploading", UPLOADING),
            )
        }

    def _begin(self, name: str, text: str) -> "subprocess.Popen[bytes]":
        folder = self._daemon.folder / name
        script = self._daemon.script(text, f"{name}/script.py")
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            return subprocess.Popen(
                [sys.executable, "-u", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
            )

    def output(self, name: str) -> str:
        return (self._daemon.folder / name / "out").read_text()

    def wait(self, name: str, text: str, more: int = 1) -> None:
        """Returns once the script has printed that so many times more."""
        wanted = self.output(name).count(text) + more
        deadline = time.monotonic() + 90
        while self.output(name).count(text) < wanted:
            err = (self._daemon.folder / name / "err").read_text()
            assert self._scripts[name].poll() is None, f"{name} ended: {err}"
            assert time.monotonic() < deadline, f"{name}: {err}{self._daemon.log_text()[-3000:]}"
            time.sleep(0.05)

    def end(self) -> dict[str, Any]:
        """What each has told, by its name."""
        for name in self._scripts:
            (self._daemon.folder / name / "enough").touch()
        told = {}
        for name, script in self._scripts.items():
            code = script.wait(150)
            err = (self._daemon.folder / name / "err").read_text()
            assert code == 0, f"{name}: {err}\n{self._daemon.log_text()[-3000:]}"
            told[name] = json.loads(self.output(name).splitlines()[-1])
        return told

    def kill(self) -> None:
        for script in self._scripts.values():
            if script.poll() is None:
                script.kill()
            script.wait(10)


def tokens() -> str:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    return f'tokens: [{{name: ann, owner: ann, role: admin, token_sha256: "{digest}"}}]\n'


def check(told: dict[str, Any], daemon: Daemon) -> None:
    """Every job once, every line once, every file whole."""
    following, submitting, uploading = (
        told[name] for name in ("following", "submitting", "uploading")
    )
    assert following["text"].splitlines() == [f"step {number}" for number in range(STEPS)]
    assert following["result"] == STEPS
    numbers = list(submitting["results"].values())
    assert numbers == list(range(len(numbers)))
    assert list(submitting["texts"].values()) == [f"number {number}\n" for number in numbers]
    assert uploading["had"] == uploading["sent"]
    status, jobs = daemon.get("/api/jobs?limit=1000", TOKEN)
    assert status == 200
    known = {following["job_id"], *submitting["results"], *uploading["sent"]}
    # Also none that nobody knows of: a submit that was repeated made one job.
    assert sorted(job["job_id"] for job in jobs) == sorted(known)
    assert {job["status"] for job in jobs} == {"completed"}
    daemon.wait_nothing_left()


def test_an_upgrade_under_load_loses_nothing(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra=tokens()).start()
    load = Load(daemon)
    try:
        load.wait("following", "following")
        load.wait("submitting", "submitted")
        load.wait("uploading", "uploaded")
        for extra in ("", "router: {ping_interval_s: 5}\njobs: {max_queued: 500}\n"):
            daemon.config.write_text(daemon.config.read_text() + extra)
            daemon.stop()
            daemon.start()
            # Both go on with the new one, whatever they were at when the old one went.
            load.wait("submitting", "submitted", 2)
            load.wait("uploading", "uploaded")
        told = load.end()
    finally:
        load.kill()
    check(told, daemon)


# --- systemd's socket -----------------------------------------------------------------------------

#: Becomes the daemon, with the socket where systemd leaves it.
_ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="cumulusd")
os.execv(sys.argv[2], sys.argv[2:])
"""


def activate(daemon: Daemon) -> socket.socket:
    """Lets the daemon be handed its socket, which listens from now on until it is closed."""
    held = socket.create_server(("127.0.0.1", daemon.port), backlog=512)
    text = daemon.config.read_text()
    ours = f"tcp:{daemon.port}:interface=127.0.0.1"
    assert ours in text
    daemon.config.write_text(text.replace(ours, "systemd:domain=INET:index=0"))
    daemon.pass_fds = (held.fileno(),)
    daemon.command_prefix = (sys.executable, "-c", _ACTIVATED, str(held.fileno()))
    return held


class Connecting:
    """Connects and hangs up without pause, from a thread; counts who was refused."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._enough = threading.Event()
        self.connected = 0
        self.refused: list[OSError] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=60).close()
            except OSError as error:
                self.refused.append(error)
            self.connected += 1
            self._enough.wait(0.02)

    def stop(self) -> None:
        self._enough.set()
        self._thread.join(90)


@pytest.mark.slow
def test_where_systemd_holds_the_socket_no_connection_is_refused(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra=tokens())
    with activate(daemon):
        connecting = Connecting(daemon.port)  # before there is a daemon
        try:
            daemon.start()
            load = Load(daemon)
            try:
                load.wait("following", "following")
                for _ in range(2):
                    before = connecting.connected
                    daemon.stop()
                    daemon.start()
                    assert connecting.connected > before
                    load.wait("submitting", "submitted")
                told = load.end()
            finally:
                load.kill()
            check(told, daemon)
        finally:
            connecting.stop()
    assert connecting.refused == []


def test_a_socket_that_is_handed_over_speaks_tls(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("daemon")
    daemon = make_daemon(extra=tokens())
    with activate(daemon):
        text = daemon.config.read_text().replace(
            "systemd:domain=INET:index=0",
            "ssl:systemd=cumulusd:privateKey=${CREDENTIALS_DIRECTORY}/daemon.key.pem"
            f":certKey={certificate}",
        )
        daemon.config.write_text(text)
        daemon.environment = {"CREDENTIALS_DIRECTORY": str(key.parent)}
        daemon.start(wait=False)
        context = ssl.create_default_context(cafile=str(authority.path))
        # It listens already: the answer comes when the daemon is there.
        url = f"https://127.0.0.1:{daemon.port}/health/live"
        with urllib.request.urlopen(url, timeout=90, context=context) as answer:
            assert answer.status == 200
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while "the certificate of systemd:cumulusd was read again" not in daemon.log_text():
            assert time.monotonic() < deadline, daemon.log_text()[-3000:]
            time.sleep(0.05)
        daemon.stop()


def test_a_socket_that_isnt_handed_over_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra=tokens())
    activate(daemon).close()
    daemon.command_prefix, daemon.pass_fds = (), ()
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 69
    assert "systemd handed over no socket 0: start cumulusd.socket" in daemon.log_text()


def test_another_kind_of_socket_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra=tokens())
    with activate(daemon):
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("domain=INET:index=0", "domain=INET6:name=cumulusd"))
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 69
        assert "is of domain INET, not INET6: write domain=INET" in daemon.log_text()
