"""provision/manager.sh, as far as it decides: options, addresses, what it would do and write. The
real thing is in tests/engine/test_provision_manager.py."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cumulusd.config import load_config

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "provision/manager.sh"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

_FAKES = {
    "ip": """
case "$*" in
    *route*) echo "198.51.100.1 via 10.1.2.1 dev eth0 src 10.1.2.3 uid 0" ;;
    *addr*) printf '2: eth0    inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0\\n' ;;
esac
""",
    "docker": 'echo "docker $*" >>"$CALLS"; exit 1\n',
    "systemctl": 'echo "systemctl $*" >>"$CALLS"; exit 1\n',
    "apt-get": 'echo "apt-get $*" >>"$CALLS"; exit 1\n',
    "dpkg-query": "exit 1\n",
    "hostname": "echo mgr\n",
    "id": 'case "$1" in -u) [ $# = 1 ] && echo 0 || exit 1 ;; *) echo root ;; esac\n',
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's files: Debian 12 with systemd."""
    for name in ("run/systemd/system", "etc", "var/lib", "fake"):
        (tmp_path / name).mkdir(parents=True)
    release = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n'
    (tmp_path / "etc/os-release").write_text(release)
    for name, text in _FAKES.items():
        (tmp_path / "fake" / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / "fake" / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def run(root: Path) -> Run:
    def call(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VAST_", "PUBLIC_IP"))}
        return subprocess.run(
            ["bash", str(SCRIPT), *words],
            env={
                **kept,
                "PATH": f"{root / 'fake'}:{kept['PATH']}",
                "CUMULUS_PROVISION_ROOT": str(root),
                "CALLS": str(root / "calls"),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def plan(run: Run, *words: str, **environment: str) -> str:
    done = run("--dry-run", *words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def told_configuration(said: str) -> str:
    """The file in a dry run's words."""
    lines = said.split("cumulusd.yaml:\n", 1)[1].splitlines()
    kept = [line for line in lines if line.startswith(" " * 12)]
    return "\n".join(line[12:] for line in kept) + "\n"


def test_a_dry_run_shows_each_step_and_changes_nothing(run: Run, root: Path) -> None:
    before = sorted(root.rglob("*"))
    said = plan(run)
    assert [int(n) for n in re.findall(r"^\[(\d+)/12\]", said, re.MULTILINE)] == list(range(1, 13))
    assert "docker swarm init --advertise-addr 10.1.2.3:2377" in said
    assert "firewall.sh install --open 50051 --open 2377" in said
    calls = (root / "calls").read_text()
    assert (
        "apt-get" not in calls
        and "swarm init" not in calls
        and "enable" not in calls.replace("is-enabled", "")
    )
    assert sorted(root.rglob("*")) == sorted([*before, root / "calls"])


@pytest.mark.parametrize("words", [[], ["--plain"], ["--count-cpu-devices", "--port", "443"]])
def test_its_configuration_is_one(run: Run, root: Path, words: list[str]) -> None:
    text = told_configuration(plan(run, *words))
    made = re.sub(r"token_sha256: .*}", f"token_sha256: {'ab' * 32}}}", text)
    value = yaml.safe_load(made)
    assert value["platform"]["swarm"]["count_cpu_devices"] is ("--count-cpu-devices" in words)
    if "--plain" in words:
        assert value["listen"] == ["tcp:50051"]
        assert value["platform"]["swarm"]["advertise_url"] == "ws://10.1.2.3:50051"
    else:
        assert value["platform"]["swarm"]["advertise_url"].startswith("wss://10.1.2.3:")
        # Its files aren't here: what is theirs is left out.
        value["listen"], value["platform"]["swarm"]["advertise_ca"] = ["tcp:50051"], None
        value["allow_plain_tokens"] = True
    file = root / "cumulusd.yaml"
    file.write_text(yaml.safe_dump(value))
    assert load_config(file, {}).platform.type == "swarm"


def test_vast_ais_mapped_ports_are_advertised(run: Run, root: Path) -> None:
    mapped = {
        "PUBLIC_IPADDR": "203.0.113.7",
        "VAST_TCP_PORT_2377": "41001",
        "VAST_TCP_PORT_50051": "41002",
    }
    said = plan(run, **mapped)
    assert "--advertise-addr 203.0.113.7:41001 --listen-addr 0.0.0.0:2377" in said
    assert "advertise_url: wss://203.0.113.7:41002" in said
    assert "ssl:50051:" in said, "it listens on the port of its own"
    assert "IP:203.0.113.7" in said
    assert "7946" in said and "WireGuard" in said
    # sudo drops the environment: they stand in a file, too.
    lines = [f"{name}={text}" for name, text in mapped.items()]
    (root / "etc/environment").write_text("\n".join(lines) + "\n")
    assert plan(run) == said
    own = plan(run, "--advertise-addr", "10.1.2.3", "--daemon-addr", "gpu.example.org:443")
    assert "--advertise-addr 10.1.2.3:2377" in own
    assert "advertise_url: wss://gpu.example.org:443" in own
    assert "7946" not in own


def test_what_an_earlier_run_was_told_holds_until_it_is_forgotten(run: Run, root: Path) -> None:
    run("--port", "7000", "--peer", "10.1.0.0/16", "--count-cpu-devices", "--plain")  # apt fails
    said = plan(run)
    assert "advertise_url: ws://10.1.2.3:7000" in said
    assert "count_cpu_devices: true" in said
    assert "--open 7000 --peer 10.1.0.0/16 \n" in said
    said = plan(run, "--peer", "10.2.0.0/16", "--port", "7001")
    assert "--open 7001 --peer 10.2.0.0/16 \n" in said
    said = plan(run, "--forget")
    assert "advertise_url: wss://10.1.2.3:50051" in said
    assert "count_cpu_devices: false" in said


def test_with_peers_nobody_else_reaches_swarm(run: Run) -> None:
    said = plan(run, "--peer", "10.1.0.0/16")
    assert "firewall.sh install --open 50051 --peer 10.1.0.0/16 \n" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "0"], "--port takes a port"),
        (["--port", "2377"], "port 2377 is Swarm's"),
        (["--advertise-addr", "gpu"], "--advertise-addr takes an IPv4 address"),
        (["--advertise-addr", "10.0.0.1:99999"], "'99999' is no port"),
        (["--daemon-addr", "a b"], "--daemon-addr takes a host name"),
        (["--peer", "10.0.0.0/33"], "--peer takes an IPv4 network"),
        (["--job-image", "-x"], "is no image's name"),
        (["--load", "/nonexistent.tar"], "/nonexistent.tar can't be read"),
        (["--tls-cert", str(SCRIPT)], "--tls-cert and --tls-key go together"),
        (["--plain", "--tls-cert", str(SCRIPT), "--tls-key", str(SCRIPT)], "which?"),
        (["--source", "/nonexistent"], "there is no /nonexistent"),
        (["--source", "/etc"], "/etc has no pyproject.toml"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--source"], "--source needs a value"),
        (["--sideways"], "unknown option --sideways"),
    ],
)
def test_wrong_options_are_told_before_anything_is_done(
    run: Run, root: Path, words: list[str], said: str
) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (root / "calls").exists()
    assert not (root / "var/log").exists()


def test_a_container_instance_is_told_as_that(run: Run, root: Path) -> None:
    (root / "run/systemd/system").rmdir()
    done = run(VAST_CONTAINERLABEL="C.123")
    assert done.returncode == 1
    assert "no Docker engine can run" in done.stderr
    assert "rent a VM instance" in done.stderr
    (root / "var/log/cumulus-manager.log").unlink()
    done = run()
    assert "systemd doesn't run on this machine" in done.stderr


def test_another_release_is_refused(run: Run, root: Path) -> None:
    (root / "etc/os-release").write_text('ID=fedora\nVERSION_ID=41\nPRETTY_NAME="Fedora 41"\n')
    done = run()
    assert done.returncode == 1
    assert "this system isn't supported: Fedora 41" in done.stderr
    assert "Debian 12" in done.stderr
    assert "Fedora 41" in (root / "var/log/cumulus-manager.log").read_text()


def test_the_step_that_fails_says_why_and_where_the_log_is(run: Run, root: Path) -> None:
    (root / "fake/apt-get").write_text("#!/bin/sh\necho 'E: no network'\nexit 100\n")
    done = run()
    assert done.returncode == 1
    assert "[2/12] packages" in done.stderr
    assert "apt can't get the lists of packages" in done.stderr
    assert "why: E: no network" in done.stderr
    assert f"log: {root}/var/log/cumulus-manager.log" in done.stderr


def test_the_wireguard_files_of_the_documents_can_be_read(tmp_path: Path) -> None:
    key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
    text = (ROOT / "docs/provisioning.md").read_text()
    blocks = re.findall(r"^   ```ini\n(.*?)^   ```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        lines = "\n".join(line.removeprefix("   ") for line in block.splitlines())
        file = tmp_path / "wg0.conf"
        file.write_text(re.sub(r"(PRIVATE|PUBLIC)_KEY_\w+", key, lines) + "\n")
        file.chmod(0o600)
        done = subprocess.run(
            ["wg-quick", "strip", str(file)], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        assert "[Peer]" in done.stdout and "PostUp" not in done.stdout
