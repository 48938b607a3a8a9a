"""An agent of its own that comes over TLS, and what its log says where it can't."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.harness import REPOSITORY
from tests.security.authority import Authority
from tests.security.daemons import GuardedDaemon

MakeGuarded = Callable[..., GuardedDaemon]
NODE = "node-of-tls"


def agents_token(daemon: GuardedDaemon, folder: Path) -> Path:
    """A file with a token for the agent of `NODE`."""
    command = [sys.executable, "-m", "cumulusd.cli", "token", "create", "--name", "machine"]
    command += ["--role", "agent", "--node", NODE, "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    path = folder / "agent.token"
    path.write_text(done.stdout)
    return path


@contextmanager
def agent(folder: Path, url: str, token: Path, **settings: str) -> Iterator[Callable[[str], str]]:
    """Runs one; gives what waits for a text in its log, and returns the log."""
    folder.mkdir()
    environ = {name: text for name, text in os.environ.items() if not name.startswith("CUMULUS_")}
    given = {"URL": url, "NODE_ID": NODE, "HOSTNAME": "h", "TOKEN_FILE": str(token)}
    given |= {"ROOT": str(folder / "root"), "LOG_FORMAT": "json", **settings}
    environ |= {f"CUMULUS_AGENT_{name}": text for name, text in given.items()}
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cumulusd.agent"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**environ, "PYTHONPATH": str(REPOSITORY)},
        )

    def until(text: str, count: int = 1) -> str:
        deadline = time.monotonic() + 60
        while log.read_text().count(text) < count:
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.05)
        return log.read_text()

    try:
        yield until
    finally:
        process.terminate()
        process.wait(30)


def test_an_agent_over_tls(make_guarded: MakeGuarded, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("daemon", hosts=("127.0.0.1",))
    daemon = make_guarded(
        f"ssl:{{port}}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    ).start()
    token = agents_token(daemon, tmp_path)
    secret = token.read_text().strip()
    url = f"wss://127.0.0.1:{daemon.second_port}"
    with agent(tmp_path / "good", url, token, CA_FILE=str(authority.path)) as until:
        log = until(" is up", 2)
        assert "Traceback" not in log and secret not in log
        assert f"the link of node {NODE} is up" in daemon.log_text()
    stranger = Authority(tmp_path / "stranger", "stranger")
    with agent(tmp_path / "bad", url, token, CA_FILE=str(stranger.path)) as until:
        log = until("connecting again")
        said = [json.loads(line)["message"] for line in log.splitlines()]
        assert any("certificate" in line and "CUMULUS_AGENT_CA_FILE" in line for line in said), said
        assert secret not in log
    named = url.replace("127.0.0.1", "localhost")
    with agent(tmp_path / "named", named, token, CA_FILE=str(authority.path)) as until:
        log = until("connecting again")
        said = [json.loads(line)["message"] for line in log.splitlines()]
        assert any("another host's" in line for line in said), said
    assert "Traceback" not in daemon.log_text() and secret not in daemon.log_text()
