"""`provision/firewall.sh` over IPv6, between network namespaces: a host, a job, another host."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "provision/firewall.sh"
PORT = 8000
LISTEN = f"""
import socket
listening = socket.create_server(("::", {PORT}), family=socket.AF_INET6)
print("up", flush=True)
while True:
    listening.accept()
"""


@attrs.frozen
class Machine:
    """A network namespace."""

    holder: "subprocess.Popen[bytes]"

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def check(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout + done.stderr

    def reaches(self, address: str) -> bool:
        return (
            self.run("timeout", "2", "bash", "-c", f": <>/dev/tcp/{address}/{PORT}").returncode == 0
        )


@contextlib.contextmanager
def process(*command: str, says: bool = False) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made:
        try:
            if says:
                assert made.stdout is not None and made.stdout.readline() == b"up\n"
            yield made
        finally:
            made.kill()


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    ours = os.stat("/proc/self/ns/net").st_ino
    with process("unshare", "--net", "sleep", "600") as holder:
        deadline = time.monotonic() + 30
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino == ours:
            assert time.monotonic() < deadline, "no namespace"
            time.sleep(0.01)
        made = Machine(holder)
        made.check("ip", "link", "set", "lo", "up")
        with process(
            "nsenter", f"--net=/proc/{holder.pid}/ns/net", sys.executable, "-c", LISTEN,
            says=True,
        ):  # fmt: skip
            yield made


def connect(host: Machine, link: str, other: Machine, network: str) -> None:
    """`link` is of the host, which is `network`::1, and routes for the other, ::2."""
    pair = ("veth0", "type", "veth", "peer", "name", "eth0", "netns", str(other.holder.pid))
    host.check("ip", "link", "add", *pair)
    if link == "docker0":
        host.check("ip", "link", "add", link, "type", "bridge")
        host.check("ip", "link", "set", "veth0", "name", "port0", "master", link, "up")
    else:
        host.check("ip", "link", "set", "veth0", "name", link)
    for one, name, end in ((host, link, 1), (other, "eth0", 2)):
        one.check("ip", "address", "add", f"{network}::{end}/64", "dev", name, "nodad")
        one.check("ip", "link", "set", name, "up")
    other.check("ip", "route", "add", "default", "via", f"{network}::1")


def test_over_ipv6_jobs_open_no_connection(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with machine() as host, machine() as job, machine() as outside:
        connect(host, "docker0", job, "fd01")
        connect(host, "out0", outside, "fd02")
        host.check("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        deadline = time.monotonic() + 30  # a bridge's port forwards a moment later
        while not job.reaches("fd02::2"):
            assert time.monotonic() < deadline, "else the rest proves nothing"
            time.sleep(0.2)

        def script(*words: str) -> str:
            return host.check("bash", str(SCRIPT), *words)

        script("apply")
        rules = host.check("ip6tables", "-S")
        assert not job.reaches("fd02::2")
        assert outside.reaches("fd01::2"), "answers go"
        script("apply")
        assert host.check("ip6tables", "-S") == rules, "again: nothing twice"

        # As Docker does where it filters IPv6: its own rules come first, behind DOCKER-USER.
        host.check("ip6tables", "-I", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
        host.check("ip6tables", "-I", "FORWARD", "-j", "DOCKER-USER")
        assert not job.reaches("fd02::2")
        host.check("ip6tables", "-D", "FORWARD", "-j", "DOCKER-USER")
        assert job.reaches("fd02::2"), "else DOCKER-USER proves nothing"
        host.check("ip6tables", "-D", "FORWARD", "-i", "docker0", "-j", "ACCEPT")

        host.check("ip6tables", "-D", "FORWARD", "-j", "CUMULUS-FORWARD")
        told = host.run("bash", str(SCRIPT), "status")
        assert told.returncode == 1
        assert "FORWARD of IPv6 has no jump to CUMULUS-FORWARD" in told.stderr
        script("remove")
        left = host.check("ip6tables", "-S")
        assert "CUMULUS" not in left and "DOCKER" not in left
        assert job.reaches("fd02::2")
