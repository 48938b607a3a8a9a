"""`cumulusd doctor` on the local platform: with the daemon stopped, running, and in trouble."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.e2e.harness import Daemon
from tests.e2e.shell import CUMULUS

MakeDaemon = Callable[..., Daemon]


def doctor(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "cumulusd.cli", "doctor", "--config", str(daemon.config)),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=daemon.folder,
    )


def findings(daemon: Daemon, code: int, *options: str) -> dict[str, list[dict[str, Any]]]:
    """By subject."""
    done = doctor(daemon, "--json", *options)
    assert done.returncode == code and not done.stderr, (done.stdout, done.stderr)
    told = json.loads(done.stdout)
    assert told["ok"] is (code == 0)
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for one in told["findings"]:
        by_subject.setdefault(one["subject"], []).append(one)
    return by_subject


def test_stopped_and_running(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    stopped = findings(daemon, 0)
    assert stopped["daemon"][0]["said"] == "none runs with this configuration"
    assert stopped["listener"][0]["said"].endswith("is free")
    assert "workers" not in stopped
    daemon.start()
    assert daemon.process is not None
    running = findings(daemon, 0)
    assert f"process {daemon.process.pid}," in running["daemon"][0]["said"]
    assert running["listener"][0]["said"].endswith("is held by the running daemon")
    assert running["open files"][0]["said"].endswith("(of the daemon)")
    assert running["workers"][0]["said"] == "1 of 1 can take jobs"
    assert running["python"][0]["verdict"] == "ok"
    lines = doctor(daemon).stdout.splitlines()
    assert lines[0].startswith("ok         configuration   it is sound")
    assert all(line.startswith(("ok ", "warning ", "not known ", " ")) for line in lines)


def test_another_daemon_on_its_port(make_daemon: MakeDaemon) -> None:
    first = make_daemon().start()
    other = make_daemon()
    text = other.config.read_text()
    other.config.write_text(text.replace(f"tcp:{other.port}:", f"tcp:{first.port}:"))
    found = findings(other, 1)
    assert "held by another Cumulus daemon" in found["listener"][0]["said"]
    assert found["disk"], "a fault keeps no other check from its turn"


def test_faults_of_the_configuration_are_findings(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra="  lokal: {}\n")
    done = doctor(daemon)
    assert done.returncode == 1
    assert "platform.lokal: unknown key; did you mean 'local'?" in done.stdout


def test_a_missing_key_is_told_in_the_command_lines_words(make_daemon: MakeDaemon) -> None:
    """By the client's doctor, which says `the daemon wants one` and how a shell gives it."""
    secret = hashlib.sha256(b"a-token-of-somebody-in-this-test").hexdigest()
    daemon = make_daemon(
        extra=f"tokens: [{{name: a, owner: a, role: client, token_sha256: {secret}}}]\n"
    )
    daemon.start()
    done = subprocess.run(
        [str(CUMULUS), "doctor", "--server", daemon.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=daemon.folder,
    )
    assert done.returncode == 1
    assert f"{daemon.url} wants an API key and none was given\n" in done.stdout
    assert "-> set CUMULUS_API_KEY, or run `cumulus login`\n" in done.stdout
