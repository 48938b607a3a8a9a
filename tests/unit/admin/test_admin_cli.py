"""`cumulusd token`, its own part: dates, the table, where the daemon is."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cumulusd import cli_token
from cumulusd.admin.token_record import new_token
from cumulusd.cli import main
from cumulusd.cli_token import when
from cumulusd.config import ConfigError, admin_path_in, load_config
from cumulusd.exits import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE

NOW = 1_795_708_000.0


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("90d", NOW + 90 * 86_400),
        ("45s", NOW + 45),
        (" 2h ", NOW + 7200),
        ("1w", NOW + 604_800),
        ("5m", NOW + 300),
        ("2030-01-31", 1_896_048_000.0),
        ("2030-01-31T12:00", 1_896_091_200.0),
        ("2030-01-31T12:00+02:00", 1_896_084_000.0),
    ],
)
def test_when_a_token_expires(text: str, unix_s: float) -> None:
    assert when(text, NOW) == unix_s


@pytest.mark.parametrize(
    "text", ["", "90", "d", "-1d", "1.5d", "soon", "2030-13-01", "9999999999d"]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="90d"):
        when(text, NOW)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "cumulusd-state/admin.sock"),
        ("state_dir: there\n", "there/admin.sock"),
        ("state_dir: there\nadmin_socket: here.sock\n", "here.sock"),
        # A variable that isn't set here is no obstacle: only the path is wanted.
        ("tokens: [{name: x, owner: x, role: admin, token_env: NOT_SET}]\n", None),
    ],
)
def test_where_the_daemon_is(tmp_path: Path, text: str, path: str | None) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    found = admin_path_in(file)
    assert found == tmp_path / (path or "cumulusd-state/admin.sock")
    if path is not None:
        assert load_config(file, {}).admin_path == found


@pytest.mark.parametrize("text", ["state_dir: 7\n", "admin_socket: [x]\n", "- x\n"])
def test_where_nothing_can_be_found(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        admin_path_in(file)
    assert main(["token", "list", "--config", str(file)]) == EXIT_CONFIG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("admin_socket: nowhere/a.sock\n", "no folder"),
        ("admin_socket: c.yaml\n", "no socket"),
        (f"admin_socket: {'x' * 65}\n", "64 bytes"),
    ],
)
def test_a_socket_that_can_not_be(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(file, {})


def test_a_daemon_with_tokens_made_may_be_reached_from_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("listen: ['tcp:50051']\nstate_dir: state\n")
    with pytest.raises(ConfigError, match="cumulusd token create"):
        load_config(file, {})
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tokens.json").write_text('{"version": 1, "tokens": []}')
    assert load_config(file, {}).tokens_made


class Daemon:
    """Stands in for the client, which has tests of its own."""

    asked: list[Mapping[str, Any]] = []

    def __init__(self, path: Path) -> None:
        pass

    def tokens(self) -> list[dict[str, Any]]:
        return [self._shown("ann"), {**self._shown("old"), "expired": True, "expires_at": NOW}]

    def create_token(self, wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        self.asked.append(wanted)
        return "cmt_secret", self._shown(wanted["name"])

    def revoke_token(self, name: str) -> dict[str, Any]:
        return self._shown(name)

    def _shown(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "owner": "lab",
            "role": "client",
            "node_id": None,
            "source": "command",
            "created_at": NOW,
            "expires_at": None,
            "expired": False,
            "scram": True,
            "public_keys": ["ab" * 32],
        }


def test_what_is_told_and_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_token, "AdminClient", Daemon)
    which = ["--socket", "x.sock"]
    words = ["--name", "ann", "--role", "client", "--owner", "lab", "--expires", "2030-01-31"]
    keys = ["--public-key", "AB" * 32, "--public-key", "cd" * 32]
    assert main(["token", "create", *words, *keys, *which]) == 0
    told = capsys.readouterr()
    assert told.out == "cmt_secret\n", "it can be piped"
    assert "not shown again" in told.err and "cmt_secret" not in told.err
    assert Daemon.asked.pop() == {
        "name": "ann",
        "role": "client",
        "owner": "lab",
        "expires_at": 1_896_048_000.0,
        "public_keys": ["AB" * 32, "cd" * 32],
    }
    assert main(["token", "create", "--name", "n", "--role", "agent", "--node", "n7", *which]) == 0
    assert Daemon.asked.pop() == {"name": "n", "role": "agent", "node_id": "n7"}
    capsys.readouterr()
    assert main(["token", "list", *which]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "OWNER", "ROLE"] and len(lines) == 3
    assert "ticket,scram,key" in lines[1] and "never" in lines[1]
    assert "2026-11-26T15:46:40Z (expired)" in lines[2]
    assert main(["token", "list", "--json", *which]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["ann", "old"]
    assert main(["token", "revoke", "ann", *which]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "ann (client of lab) is revoked" in told.err


@pytest.mark.parametrize(
    "words", [["create"], ["create", "--name", "x"], ["list"], ["revoke", "--socket", "x"], []]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", *words])
    assert ended.value.code == 2


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "list", "--socket", str(tmp_path / "a.sock")]) == EXIT_UNAVAILABLE
    said = capsys.readouterr().err
    assert str(tmp_path / "a.sock") in said and "is cumulusd running" in said


def test_what_is_wrong_is_told_by_the_options_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing(Daemon):
        def create_token(self, wanted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
            new_token(wanted, NOW)
            raise AssertionError("it was taken")

    monkeypatch.setattr(cli_token, "AdminClient", Refusing)
    create = ["token", "create", "--socket", "x.sock", "--name", "a/b"]
    for words, told in (
        (["--role", "agent"], ["--name must be", "--node is needed"]),
        (["--role", "client", "--public-key", "zz"], ["--name must be", "--public-key must be"]),
        (["--role", "boss", "--owner", "c/d"], ["--name must", "--owner must", "--role must"]),
        (["--role", "client", "--expires", "2020-01-01"], ["--name must", "--expires must lie"]),
    ):
        assert main([*create, *words]) == EXIT_USAGE
        refused = capsys.readouterr()
        assert refused.out == "" and "no token was made" in refused.err
        assert all(text in refused.err for text in told), refused.err
        # One fault of the name is told once, though the owner is called so too.
        assert refused.err.count(" must be 1 to 64") == 1 + ("--owner" in words)
