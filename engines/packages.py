"""Installs what engines take and a bare Debian lacks, without starting anything."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PackageError", "install_missing", "missing_packages"]

#: Tool -> Debian's package with it.
_TOOLS = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "tini": "tini",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
#: Where tools lie that an ordinary user's PATH leaves out.
_PATH = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
_POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_TIMEOUT_S = 600.0


class PackageError(Exception):
    """Something is missing and can't be installed."""


def missing_packages() -> list[str]:
    """Debian's names of the packages that are missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), _PATH])
    return sorted({name for tool, name in _TOOLS.items() if shutil.which(tool, path=path) is None})


def install_missing() -> list[str]:
    """Installs what is missing and says so: the packages' names. Starts no service."""
    packages = missing_packages()
    if not packages:
        return []
    if os.geteuid() != 0:
        raise PackageError(f"missing: {', '.join(packages)}; installing them needs root")
    if shutil.which("apt-get") is None:
        raise PackageError(
            f"missing: {', '.join(packages)}; without apt-get, install them yourself"
        )
    print(f"engines: installing {', '.join(packages)} (no service is started)", file=sys.stderr)
    with _nothing_starts():
        _apt("update", "-qq")
        _apt("install", "-qq", "-y", "--no-install-recommends", *packages)
    if still := missing_packages():
        raise PackageError(f"apt-get installed {', '.join(packages)}, yet {still} are missing")
    return packages


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """Keeps the packages' scripts from starting services, by Debian's means for that.

    A policy that is there already is left alone, if it forbids; else its owner decides.
    """
    if _POLICY.exists():
        if subprocess.run([str(_POLICY), "docker", "start"], check=False).returncode != 101:
            raise PackageError(
                f"{_POLICY} lets Docker's service start; install {', '.join(missing_packages())} "
                "yourself"
            )
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101 # cumulus: nothing starts while it installs\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"apt-get {arguments[0]}: not done in {INSTALL_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-2000:]
        raise PackageError(f"apt-get {' '.join(arguments)} failed ({done.returncode}): {words}")
