"""The agent as a process of its own: how it is configured, how it ends, what it tells jobs."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import World
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint

from cumulusd.agent.ca_bundle import install_bundle
from cumulusd.agent.settings import SettingsError, daemon_endpoint, read_settings
from cumulusd.errors import CumulusError, InternalError

ROOT = Path(__file__).parents[3]
PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


def environ(tmp_path: Path, **changes: str) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text("an-agents-token\n")
    whole = {
        "URL": "ws://127.0.0.1:9",
        "NODE_ID": "n1",
        "HOSTNAME": "gpu-1",
        "TOKEN_FILE": str(token),
        "ROOT": str(tmp_path / "root"),
        **changes,
    }
    return {f"CUMULUS_AGENT_{name}": text for name, text in whole.items() if text}


def test_what_is_set(tmp_path: Path) -> None:
    options = {"count_cpu_devices": True, "job_uid": 1000, "stop_grace_s": 2, "uv": None}
    settings = read_settings(
        environ(tmp_path, OPTIONS=json.dumps(options), CA_BUNDLE="/run/x", LOG_LEVEL="debug")
    )
    assert (settings.node_id, settings.hostname, settings.token) == (
        "n1",
        "gpu-1",
        "an-agents-token",
    )
    assert settings.options.count_cpu_devices and settings.options.job_uid == 1000
    assert settings.options.ca_bundle == Path("/run/x")
    assert settings.options.host == "127.0.0.1:9"
    assert settings.options.job_python is None and settings.options.uv is None
    assert "an-agents-token" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"URL": "http://x:1"}, "URL: 'http://x:1' is neither"),
        ({"URL": "ws://x"}, "neither"),
        ({"URL": ""}, "URL: is not set"),
        ({"ROOT": "relative"}, "ROOT: 'relative' is no absolute path"),
        ({"ROOT": "/"}, "no absolute path of a folder"),
        ({"TOKEN_FILE": "/nowhere/at/all"}, "TOKEN_FILE: "),
        ({"TOKEN_FILE": "/dev/null"}, "holds no token"),
        ({"TOKEN_FILE": "/dev/zero"}, "over"),
        ({"OPTIONS": "{"}, "no JSON"),
        ({"OPTIONS": "[]"}, "JSON object"),
        ({"OPTIONS": '{"gpu_reserve_fraction": 1}'}, "from 0 to less than 1"),
        ({"OPTIONS": '{"chronos_backend": "both"}'}, "one of auto, libchronos, builtin"),
        ({"OPTIONS": '{"job_uid": "1000"}'}, "job_uid must be a whole number"),
        ({"OPTIONS": '{"job_user": 1}'}, "'job_user' is not known"),
        ({"LOG_LEVEL": "loud"}, "none of debug"),
        ({"ROOTS": "/x"}, "CUMULUS_AGENT_ROOTS: is not known"),
    ],
)
def test_what_is_wrong(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(environ(tmp_path, **changes))
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_every_fault_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({})
    assert len(str(caught.value).splitlines()) == 5


def test_where_it_dials(tmp_path: Path) -> None:
    plain = daemon_endpoint(reactor, read_settings(environ(tmp_path)))
    assert isinstance(plain, HostnameEndpoint)
    secure = environ(tmp_path, URL="wss://daemon.example:443")
    assert not isinstance(daemon_endpoint(reactor, read_settings(secure)), HostnameEndpoint)
    (tmp_path / "ca.pem").write_text(PEM)  # no certificate, whatever it says
    for text in (PEM, ""):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(SettingsError, match="CA_FILE"):
            daemon_endpoint(
                reactor, read_settings({**secure, "CUMULUS_AGENT_CA_FILE": f"{tmp_path}/ca.pem"})
            )


def start(variables: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        # The second: of passlib, which Autobahn imports where it is there (for the tests of SCRAM).
        [
            *(sys.executable, "-W", "error", "-W", "ignore:'crypt' is deprecated"),
            *("-m", "cumulusd.agent"),
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    with start(environ(tmp_path)) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert "is up" in first["message"] and first["node_id"] == "n1"
        second = start(environ(tmp_path))  # one agent at a time uses the folder
        out, _ = second.communicate(timeout=30)
        assert second.returncode == 69 and "another agent uses the folder" in out
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert time.monotonic() - began < 10
        assert "the agent stops; running jobs go on" in out
        assert "an-agents-token" not in out + err


def test_a_process_that_is_configured_wrongly_says_so(tmp_path: Path) -> None:
    process = start(environ(tmp_path, URL="x"))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 78
    assert err.splitlines()[1].startswith("CUMULUS_AGENT_URL: ")


# -- a company's network, as jobs get it


def test_the_bundle_is_for_everybody_to_read(tmp_path: Path) -> None:
    source = tmp_path / "source.pem"
    source.write_text(PEM)
    before = os.umask(0o077)
    try:
        place = install_bundle(source, tmp_path)
    finally:
        os.umask(before)
    assert place.read_text() == PEM and stat.S_IMODE(place.stat().st_mode) == 0o644
    kept = place.open()
    source.write_text(PEM * 2)
    install_bundle(source, tmp_path)
    assert kept.read() == PEM, "a job that runs keeps what it has"
    kept.close()
    assert place.read_text() == PEM * 2


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    source = tmp_path / "source.pem"
    for text in ("", "no certificate", PEM * 100_000):
        source.write_text(text)
        with pytest.raises(InternalError):
            install_bundle(source, tmp_path)
    with pytest.raises(CumulusError, match="can't be copied"):
        install_bundle(tmp_path / "absent", tmp_path)
    assert not (tmp_path / "ca-bundle.pem").exists()


@pytest_twisted.ensureDeferred
async def test_jobs_get_bundle_index_and_proxies(
    make: Callable[..., World], tmp_path: Path
) -> None:
    source = tmp_path / "source.pem"
    source.write_text(PEM)
    world = await make(
        ca_bundle=source, installer_environment={"UV_INDEX": "a", "HTTPS_PROXY": "old"}
    ).start()
    answer = await world.prepare(
        environment={"SSL_CERT_FILE": "/mine"}, installer_environment={"HTTPS_PROXY": "new"}
    )
    place = str(world.root / "ca-bundle.pem")
    assert [place, place, True] in answer["grant"]["mounts"]
    folder = Path(answer["grant"]["folder"])
    orders: dict[str, Any] = json.loads((folder / "job.json").read_bytes())
    assert orders["installer_environment"] == {
        "SSL_CERT_FILE": place,
        "REQUESTS_CA_BUNDLE": place,
        "CURL_CA_BUNDLE": place,
        "UV_INDEX": "a",
        "HTTPS_PROXY": "new",
    }
    assert orders["environment"]["CURL_CA_BUNDLE"] == place
    assert orders["environment"]["SSL_CERT_FILE"] == "/mine", "the user's own word wins here"
