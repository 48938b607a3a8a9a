"""`cumulusd show-config`: every value that counts, where it is from, and no secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from cumulusd.cli import main
from cumulusd.exits import EXIT_CONFIG

SECRET = "a-long-random-token-0123456789"
TEXT = """\
listen: ["tcp:50051:interface=127.0.0.1"]
jobs:
  history_hours: 48
  index_url: https://ann:hidden-password@packages.example/simple?key=hidden-key
  environment:
    HTTPS_PROXY: http://bob:hidden-too@proxy:3128
s3: {bucket: checkpoints}
tokens:
  - {name: ann, owner: ann, role: client, token_sha256: "%s"}
  - {name: ops, owner: ops, role: admin, token_env: OPS}
  - {name: eve, owner: ops, role: viewer}
""" % ("ab" * 32)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "cumulusd.yaml"
    path.write_text(TEXT)
    monkeypatch.setenv("OPS", SECRET)
    monkeypatch.setenv("CUMULUSD_TOKEN_EVE", SECRET + "2")
    monkeypatch.setenv("CUMULUSD_S3_ACCESS_KEY", "hidden-id")
    monkeypatch.setenv("CUMULUSD_S3_SECRET_KEY", "hidden-s3")
    return str(path)


@pytest.fixture
def values(file: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["show-config", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == file
    return {one["key"]: one for one in told["values"]}


def test_where_each_value_comes_from(values: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    def of(key: str) -> tuple[Any, ...]:
        one = values[key]
        return one["value"], one["source"], one["line"], one["variable"]

    assert of("listen[0]") == ("tcp:50051:interface=127.0.0.1", "file", 1, None)
    assert of("jobs.history_hours") == (48.0, "file", 3, None)
    assert of("jobs.max_queued") == (10_000, "default", None, None)
    assert of("platform.type") == ("local", "default", None, None)
    assert of("platform.swarm") == (None, "default", None, None)
    assert of("s3.region") == ("us-east-1", "default", None, None)
    assert of("tokens[1].token_env") == ("OPS", "file", 10, None)
    assert of("tokens[1].token_sha256") == ("(hidden)", "environment", None, "OPS")
    assert of("tokens[2].token_sha256")[3] == "CUMULUSD_TOKEN_EVE"
    assert of("tokens[0].token_sha256") == ("(hidden)", "file", 9, None)
    assert of("admin_socket")[0] == str(tmp_path / "cumulusd-state" / "admin.sock")


def test_secrets_are_hidden(
    values: dict[str, dict[str, Any]], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert values["jobs.index_url"]["value"] == (
        "https://(hidden)@packages.example/simple?(hidden)"
    )
    assert values["jobs.environment.HTTPS_PROXY"]["value"] == "(hidden)"
    assert {key for key, one in values.items() if one["hidden"]} == {
        "jobs.index_url",
        "jobs.environment.HTTPS_PROXY",
        *(f"tokens[{index}].token_sha256" for index in range(3)),
    }
    assert main(["show-config", file]) == 0
    text = capsys.readouterr().out + json.dumps(values)
    for secret in (SECRET, "hidden-", "abab"):
        assert secret not in text


def test_what_systemd_hands_over(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "OPS").write_text(SECRET + "3")
    monkeypatch.delenv("OPS")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert main(["show-config", file]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["tokens[1].token_sha256"] == ["(hidden)", "credential", "OPS"]
    assert rows["tokens[2].token_sha256"][1] == "environment"


def test_as_lines(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", file]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["jobs.history_hours"] == ["48.0", "line", "3"]
    assert rows["tokens[2].token_sha256"] == ["(hidden)", "environment", "CUMULUSD_TOKEN_EVE"]
    assert rows["web.allowed_origins"] == ["[]", "default"]
    assert rows["jobs.image"] == ["null", "default"]


def test_faults_are_told_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cumulusd.yaml"
    path.write_text("platfrom: {}\n")
    assert main(["show-config", str(path)]) == EXIT_CONFIG
    told = capsys.readouterr()
    assert (
        told.out == "" and f"{path}:1: platfrom: unknown key; did you mean 'platform'" in told.err
    )
