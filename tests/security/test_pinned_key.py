"""Machines know a daemon by the key of its certificate: told by the command, held by curl."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulusd.cli import main
from tests.security.authority import Authority
from tests.security.daemons import TOKENS, GuardedDaemon
from tests.security.test_tls import listener

SWARM = """
listen: ["{listen}"]
state_dir: state
jobs: {{image: "job:1"}}
platform:
  type: swarm
  swarm: {{agent_image: "agent:1", advertise_url: "wss://127.0.0.1:{port}"}}
tokens: [{{name: me, owner: me, role: client, token_env: A_TOKEN}}]
"""


def pin_by_openssl(certificate: Path) -> str:
    """As curl's documentation of --pinnedpubkey makes it."""
    pipe = (
        f"openssl x509 -in {certificate} -pubkey -noout | openssl pkey -pubin -outform der"
        " | openssl dgst -sha256 -binary | openssl base64"
    )
    done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, check=True)
    return f"sha256//{done.stdout.strip()}"


def test_the_command_tells_the_key_and_curl_takes_no_other(
    make_guarded: Callable[..., GuardedDaemon],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificate, key = authority.issue("daemon")
    daemon = make_guarded(listener(tmp_path / "tls", (certificate, key))).start()
    monkeypatch.setenv("A_TOKEN", TOKENS["client"])
    config = tmp_path / "swarm.yaml"
    listen = daemon.settings["listen"][-1]
    config.write_text(SWARM.format(listen=listen, port=daemon.second_port))
    assert main(["provision-token", "create", "--config", str(config)]) == 0
    told = capsys.readouterr().err
    pin = pin_by_openssl(certificate)
    assert f"--insecure --pinnedpubkey {pin} https://127.0.0.1:{daemon.second_port}/" in told
    assert f"--fingerprint {pin}" in told

    other = pin_by_openssl(authority.issue("other")[0])
    for named, code in ((pin, 0), (other, 90)):  # 90: the key is another
        done = subprocess.run(
            [
                *("curl", "-sS", "--max-time", "60", "--insecure", "--pinnedpubkey", named),
                f"https://127.0.0.1:{daemon.second_port}/health/live",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
