"""The scripts as the daemon gives them out, and the command that fetches one."""

import subprocess
from pathlib import Path

import pytest

from cumulusd import provision_scripts
from cumulusd.errors import NotFound
from cumulusd.provision_scripts import http_url, made_out, worker_command

ROOT = Path(__file__).parents[3]
URL, PIN = "https://gpu.example.org:50051", "sha256//ab+/cd="
SCRIPT = """#!/bin/bash
# ORCHESTRATOR_URL="" is for the daemon
ORCHESTRATOR_URL=""  # filled in by the daemon that serves this script
ORCHESTRATOR_FINGERPRINT=""  # likewise
printf '%s\\n' "$ORCHESTRATOR_URL" "$ORCHESTRATOR_FINGERPRINT"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(provision_scripts, "_FOLDERS", (tmp_path / "none", tmp_path))
    (tmp_path / "worker.sh").write_text(SCRIPT)
    return tmp_path


def run(script: bytes) -> list[str]:
    done = subprocess.run(["bash"], input=script, capture_output=True, check=True)
    return done.stdout.decode().split("\n")[:-1]


@pytest.mark.parametrize("url", [URL, "http://10.0.0.1:1", 'http://x"$(touch y)`id`\\:1'])
def test_a_script_knows_its_daemon(folder: Path, url: str) -> None:
    assert run(made_out("worker.sh", url, PIN)) == [url, PIN]
    assert run(made_out("worker.sh", url, None)) == [url, ""]
    assert b"# filled in by" in made_out("worker.sh", url, PIN), "the rest stays"


def test_one_without_the_lines_is_as_it_is(folder: Path) -> None:
    (folder / "firewall.sh").write_text("echo here\n")
    assert made_out("firewall.sh", URL, PIN) == b"echo here\n"


def test_one_that_is_not_there(folder: Path) -> None:
    with pytest.raises(NotFound, match=r"provision/manager\.sh"):
        made_out("manager.sh", URL, PIN)


@pytest.mark.parametrize("name", sorted(one.name for one in (ROOT / "provision").glob("*.sh")))
def test_those_of_the_source_tree(name: str) -> None:
    text = made_out(name, URL, PIN).decode()
    for line in (f'ORCHESTRATOR_URL="{URL}"', f'ORCHESTRATOR_FINGERPRINT="{PIN}"'):
        wanted = 0 if name == "firewall.sh" else 1
        assert sum(one.startswith(line) for one in text.splitlines()) == wanted, line


def test_the_address() -> None:
    assert http_url("ws://10.0.0.1:50051") == "http://10.0.0.1:50051"
    assert http_url("wss://ws.example.org:443/") == "https://ws.example.org:443"


def test_the_command_pins_the_key_where_one_is_named() -> None:
    plain = worker_command("http://h:1", "cpt_x", None)
    assert plain == (
        "curl -fsSL http://h:1/provision/worker.sh |"
        " bash -s -- --orchestrator http://h:1 --token cpt_x --allow-plain-token"
    )
    pinned = worker_command(URL, "cpt_x", PIN)
    assert f"--insecure --pinnedpubkey {PIN} {URL}/provision/worker.sh" in pinned
    assert pinned.endswith(f"--token cpt_x --fingerprint {PIN}")
