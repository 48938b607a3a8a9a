"""What `cumulusd doctor` makes of this machine: folder, disk, open files, tokens, listeners."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulusd.config import Config, load_config
from cumulusd.doctor import listeners, machine
from cumulusd.doctor.finding import Finding, as_json, fault, of_error, ok, told, warning
from cumulusd.errors import Unavailable

NOW = 1_795_708_000.0
DAY_S = 86_400.0


def config_of(folder: Path, text: str = "") -> Config:
    path = folder / "cumulusd.yaml"
    path.write_text(text)
    return load_config(path, {})


def verdicts(found: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(one.verdict, one.said) for one in found]


def only(found: Iterator[Finding]) -> Finding:
    (one,) = found
    return one


def test_a_line_and_what_to_do() -> None:
    assert told(ok("disk", "much\nroom")) == ["ok         disk            much room"]
    lines = told(warning("disk", "little", "make room"))
    assert lines == [
        "warning    disk            little",
        "                           -> make room",
    ]
    found = [ok("a", "b"), warning("a", "b", "c")]
    assert as_json(found)["ok"] is True
    assert as_json([*found, fault("x", "y", "z")]) == {
        "ok": False,
        "findings": [
            {"subject": "a", "verdict": "ok", "said": "b", "advice": None},
            {"subject": "a", "verdict": "warning", "said": "b", "advice": "c"},
            {"subject": "x", "verdict": "fault", "said": "y", "advice": "z"},
        ],
    }


def test_an_error_is_told_with_the_platforms_words() -> None:
    error = Unavailable("the engine is away", details={"platform": "refused"}, hint="start it")
    assert of_error("engine", error) == fault("engine", "the engine is away: refused", "start it")


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = only(machine.state_folder(config_of(tmp_path)))
    assert found.verdict == "ok" and "makes it" in found.said


@pytest.mark.parametrize(
    ("mode", "verdict", "words"),
    [(0o700, "ok", "alone"), (0o755, "warning", "look into"), (0o777, "fault", "may write")],
)
def test_who_gets_at_the_folder(tmp_path: Path, mode: int, verdict: str, words: str) -> None:
    config = config_of(tmp_path)
    config.state_dir.mkdir()
    config.state_dir.chmod(mode)
    found = only(machine.state_folder(config))
    assert found.verdict == verdict and words in found.said
    if verdict != "ok":
        assert found.advice == f"chmod 700 {config.state_dir}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_files_of_somebody_else_in_the_folder(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    config.state_dir.mkdir(mode=0o700)
    store = config.state_dir / "jobs.sqlite3"
    store.write_bytes(b"")
    os.chown(store, 12345, -1)
    first, second = machine.state_folder(config)
    assert first.verdict == "ok"
    assert second.verdict == "fault" and "jobs.sqlite3" in second.said
    assert second.advice is not None and "chown -R" in second.advice


def test_a_disk_without_room(tmp_path: Path) -> None:
    full = config_of(tmp_path, f"jobs: {{min_free_bytes: {1 << 50}}}\n")
    found = only(machine.disk(full))
    assert found.verdict == "fault" and str(1 << 50) in found.said
    large = config_of(
        tmp_path, f"jobs: {{min_free_bytes: 0, outputs_history_max_bytes: {1 << 50}}}\n"
    )
    found = only(machine.disk(large))
    assert found.verdict == "warning" and "history alone may take 1048596.0 GiB" in found.said
    small = (
        "jobs: {min_free_bytes: 0, history_max_bytes: 1048576, journal_cap_bytes: 1048576, "
        "outputs_max_bytes: 0, outputs_history_max_bytes: 0}\n"
    )
    assert only(machine.disk(config_of(tmp_path, small))).verdict == "ok"


def test_open_files(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    enough = only(machine.open_files(config, 20_000, 5))
    assert enough == ok("open files", "20000 may be open (of the daemon)")
    few = only(machine.open_files(config, None, 1024))
    assert few.verdict == "warning" and "1024 may be open (of this shell" in few.said


def token(name: str, expires_at: float | None = None, role: str = "client") -> dict[str, Any]:
    return {"name": name, "role": role, "expires_at": expires_at}


def test_tokens_of_a_running_daemon(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    def of(*made: dict[str, Any]) -> list[tuple[str, str]]:
        return verdicts(machine.tokens(config, made, NOW))

    assert of(token("agent-1", role="agent")) == [
        ("ok", "none: who is on this machine may do everything")
    ]
    assert of(token("ann"), token("bob", NOW + 3 * DAY_S), token("eve", NOW - 1)) == [
        ("ok", "2 tokens for people and programs"),
        ("warning", "soon to expire: bob"),
        ("warning", "expired: eve"),
    ]
    assert of(token("eve", NOW - 1)) == [("fault", "all 1 have expired")]
    many = [token(f"t{index}", NOW + 1) for index in range(8)]
    assert ("warning", "soon to expire: t0, t1, t2, t3, t4 and 3 more") in of(*many)


def test_tokens_of_a_stopped_daemon(tmp_path: Path) -> None:
    secret = "ab" * 32
    text = f"tokens: [{{name: a, owner: a, role: client, token_sha256: {secret}}}]\n"
    config = config_of(tmp_path, text)
    assert verdicts(machine.tokens(config, None, NOW)) == [
        ("ok", "1 token for people and programs")
    ]
    config.state_dir.mkdir()
    (config.state_dir / "tokens.json").write_text("{")
    assert only(machine.tokens(config, None, NOW)).verdict == "fault"


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("tcp:50051:interface=127.0.0.1", "127.0.0.1:50051"),
        ("tcp:port=1:interface=10.0.0.1", "10.0.0.1:1"),
        ("tcp:50051", "*:50051"),
        ("tcp:50051:127.0.0.1", "127.0.0.1:50051"),
        ("tcp6:50051", "[::]:50051"),
        ("tcp:50051:interface=\\:\\:1", "[::1]:50051"),
    ],
)
def test_a_listener_is_read(description: str, name: str) -> None:
    found = listeners.read(description)
    assert found is not None and found.name == name and not found.secure


@pytest.mark.parametrize("description", ["unix:/run/x", "systemd:domain=INET:index=0"])
def test_a_listener_without_a_port_here(description: str) -> None:
    assert listeners.read(description) is None


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else has, who says nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(0)
        other.settimeout(0)
        yield other.getsockname()[1]


def listening(tmp_path: Path, where: str, running: bool | None) -> Finding:
    return only(listeners.examine(config_of(tmp_path, f"listen: ['{where}']\n"), running))


def test_a_listener_that_is_taken(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "CONNECT_TIMEOUT_S", 0.2)
    where = f"tcp:{taken}:interface=127.0.0.1"
    found = listening(tmp_path, where, False)
    assert found.verdict == "fault" and "no Cumulus daemon" in found.said
    monkeypatch.setattr(listeners, "is_cumulus", lambda listener: True)
    assert listening(tmp_path, where, True).verdict == "ok"
    found = listening(tmp_path, where, False)
    assert found.verdict == "fault" and "another Cumulus daemon" in found.said


def test_a_listener_that_is_free(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    where = f"tcp:{port}:interface=127.0.0.1"
    assert listening(tmp_path, where, False) == ok("listener", f"127.0.0.1:{port} is free")
    found = listening(tmp_path, where, True)
    assert found.verdict == "fault" and "doesn't listen there" in found.said
    # Of a network that no machine has: RFC 5737. Without tokens only loopback would be taken.
    listener = listeners.Listener(interface="192.0.2.1", port=port, secure=False)
    found = listeners._tried(listener, False)
    assert found.verdict == "fault" and "no address of this machine" in found.said
