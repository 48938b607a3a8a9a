"""The client's side of TLS: whom it trusts, and what it says where it doesn't."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import AsyncCumulusClient, CumulusClient, exceptions
from cumulus_client._profiles import load, settings
from cumulus_client.exceptions import ConnectionFailed, CumulusError, NotAuthenticated
from tests.security.authority import Authority
from tests.security.daemons import TOKENS, GuardedDaemon

MakeGuarded = Callable[..., GuardedDaemon]
KEY = TOKENS["client"]


def secure(
    make_guarded: MakeGuarded, files: tuple[Path, Path], *more: str
) -> tuple[GuardedDaemon, str]:
    """A daemon with such a certificate, and its https URL."""
    certificate, key = files
    text = f"ssl:{{port}}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    daemon = make_guarded(":".join([text, *more])).start()
    return daemon, f"https://127.0.0.1:{daemon.second_port}"


#: In a process of its own: the client is asyncio's, and this process Twisted's.
ASK = """
import json, sys
from cumulus_client import CumulusClient
from cumulus_client.exceptions import CumulusError
with CumulusClient(sys.argv[1], sys.stdin.read(), ca_file=sys.argv[2] or None) as client:
    try:
        answer = client.get_server_info()
    except CumulusError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps(answer))
"""


def ask(url: str, ca_file: Path | str | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, url, str(ca_file or "")],
        input=KEY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def failure(url: str, ca_file: Path | str | None = None) -> CumulusError:
    answer = ask(url, ca_file)
    error: CumulusError = getattr(exceptions, answer["error"])(
        answer["message"], hint=answer["hint"]
    )
    return error


def test_everything_goes_over_tls(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    daemon, url = secure(make_guarded, authority.issue("daemon"))
    script = tmp_path / "user_script.py"
    script.write_text(
        "import asyncio, hashlib, json, os, sys\n"
        "from cumulus_client import AsyncCumulusClient, CumulusClient\n"
        "def work(data):\n"
        "    import os\n"
        "    with open(os.path.join(os.environ['CUMULUS_OUTPUT_DIR'], 'o.bin'), 'wb') as file:\n"
        "        file.write(bytes(3_000_000))\n"
        "    print('said')\n"
        "    return len(data)\n"
        "with CumulusClient() as client:\n"
        "    job = client.submit(work, gpu_memory=0.1, duration=60, args=['x' * 1_500_000])\n"
        "    value = job.result(timeout=60)\n"
        "    size = os.path.getsize(job.download('o.bin'))\n"
        "async def ask():\n"
        "    async with AsyncCumulusClient() as client:\n"
        "        return (await client.get_job_status(job.job_id))['status']\n"
        "print(json.dumps([value, size, asyncio.run(ask())]))\n"
    )
    environ = {
        **os.environ,
        "CUMULUS_SERVER_URL": f"wss://127.0.0.1:{daemon.second_port}/ws",
        "CUMULUS_API_KEY": KEY,
        "CUMULUS_CA_FILE": str(authority.path),
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=environ,
        cwd=tmp_path,
        timeout=90,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr + daemon.log_text()[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [1_500_000, 3_000_000, "completed"]
    daemon.stop()  # while nothing is open
    assert "Traceback" not in daemon.log_text()
    assert url.startswith("https:")


def test_what_is_wrong_with_a_certificate_is_told(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    daemon, url = secure(make_guarded, authority.issue("daemon", hosts=("127.0.0.1",)))
    unknown = failure(url)
    assert "signed by nobody whom this machine trusts" in unknown.message
    assert unknown.hint is not None and "ca_file" in unknown.hint
    stranger = Authority(tmp_path / "stranger", "stranger")
    other = failure(url, stranger.path)
    assert f"signed by none of those in {stranger.path}" in other.message
    named = failure(url.replace("127.0.0.1", "localhost"), authority.path)
    assert "another host's" in named.message and "localhost" in named.message
    plain = failure(url.replace("https", "http"))
    assert "only https" in plain.message and plain.hint == f"use {url}"
    reverse = failure(f"https://127.0.0.1:{daemon.port}", authority.path)
    assert "only http" in reverse.message
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert "there is no certificate in it" in failure(url, empty).message
    for error in (unknown, other, named, plain, reverse):
        assert isinstance(error, ConnectionFailed) and KEY not in str(error) + str(error.hint)
    with pytest.raises(ValueError, match=r"none\.pem can't be read: No such file"):
        CumulusClient(url, KEY, ca_file=tmp_path / "none.pem")


def test_an_expired_certificate_is_told(make_guarded: MakeGuarded, authority: Authority) -> None:
    daemon, url = secure(make_guarded, authority.issue("daemon", days=-3))
    error = failure(url, authority.path)
    assert "has expired" in error.message and error.hint is not None and "operator" in error.hint
    assert "has expired 3 days ago" in daemon.log_text()


def test_a_chain_that_isnt_sent_is_thought_of(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    between = Authority(tmp_path / "between", "between", authority)
    files = between.issue("daemon")
    _, url = secure(make_guarded, files)
    error = failure(url, authority.path)
    assert error.hint is not None and "certChain" in error.hint
    _, url = secure(make_guarded, files, f"certChain={between.path}")
    assert ask(url, authority.path)["owner"] == "client"


def test_a_token_over_a_plain_connection_from_outside(
    make_guarded: MakeGuarded, outside: str
) -> None:
    daemon = make_guarded(f"tcp:{{port}}:interface={outside}").start()
    error = failure(f"http://{outside}:{daemon.second_port}")
    assert isinstance(error, NotAuthenticated)
    assert "unencrypted" in error.message and error.hint is not None and "https://" in error.hint
    allowed = make_guarded(f"tcp:{{port}}:interface={outside}", extra="allow_plain_tokens: true")
    allowed.start()
    assert ask(f"http://{outside}:{allowed.second_port}")["owner"] == "client"


def cumulus(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CUMULUS_")}
    environ.update(XDG_CONFIG_HOME=str(folder / "config"), **variables)
    return subprocess.run(
        [sys.executable, "-m", "cumulus_client", *words],
        capture_output=True,
        text=True,
        env=environ,
        cwd=folder,
        timeout=60,
        input=variables.get("KEY", ""),
    )


def test_the_command_line(make_guarded: MakeGuarded, authority: Authority, tmp_path: Path) -> None:
    _, url = secure(make_guarded, authority.issue("daemon"))
    ca_file = os.path.relpath(authority.path, tmp_path)
    options = ("--server-url", url, "--api-key-stdin")
    refused = cumulus(tmp_path, "login", *options, KEY=KEY)
    assert refused.returncode != 0 and "--ca-file" in refused.stderr, refused.stderr
    missing = cumulus(tmp_path, "login", *options, "--ca-file", "none.pem", KEY=KEY)
    assert missing.returncode == 2 and "none.pem can't be read" in missing.stderr
    kept = cumulus(tmp_path, "login", *options, "--ca-file", ca_file, KEY=KEY)
    assert kept.returncode == 0, kept.stderr
    profile = load(tmp_path / "config/cumulus/config.toml").profiles["default"]
    assert profile.ca_file == str(authority.path)
    assert cumulus(tmp_path, "info", "--json").returncode == 0
    named = cumulus(
        tmp_path, "info", "--json", *("--server", url, "--ca-file", ca_file), CUMULUS_API_KEY=KEY
    )
    assert named.returncode == 0, named.stderr
    doctor = cumulus(
        tmp_path, "doctor", CUMULUS_CA_FILE=str(tmp_path / "config/cumulus/config.toml")
    )
    assert doctor.returncode != 0 and "CUMULUS_CA_FILE" in doctor.stdout
    assert "there is no certificate in it" in doctor.stdout


def test_where_a_ca_file_is_looked_for(authority: Authority, tmp_path: Path) -> None:
    folder = tmp_path / "config/cumulus"
    folder.mkdir(parents=True)
    (folder / "lab.pem").write_bytes(authority.path.read_bytes())
    (folder / "config.toml").write_text(
        '[profiles.lab]\nserver_url = "https://lab"\nca_file = "lab.pem"\n'
    )
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": "/none"}
    own = str(authority.path)
    assert settings(environ=environ).ca_file == str(folder / "lab.pem")
    assert settings(ca_file=authority.path, environ=environ).ca_file == own
    there = {**environ, "CUMULUS_CA_FILE": own}
    assert settings(environ=there).ca_file == own
    assert settings(profile="lab", environ=there).ca_file == str(folder / "lab.pem")
    assert settings("https://elsewhere", environ=environ).ca_file is None, "another server"
    with pytest.raises(ValueError, match=r"gone\.pem"):
        settings(environ={**environ, "CUMULUS_CA_FILE": "gone.pem"})
    assert settings("http://plain", environ={**environ, "CUMULUS_CA_FILE": "gone.pem"})


def test_both_faces_take_it(authority: Authority) -> None:
    for face in (CumulusClient, AsyncCumulusClient):
        client = face("https://127.0.0.1:1", ca_file=str(authority.path))
        assert client._core.connection.ca_file == str(authority.path)
