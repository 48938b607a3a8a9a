"""A machine with a real systemd and the daemon installed as docs/operations.md says."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path

from engines.cluster import Cluster
from engines.machine import SUITE, BareMachine
from engines.release import make_packages_tree

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
VENV = "/opt/cumulus/venv"
CODE = "/opt/cumulus/code"
PYTHON = f"{VENV}/bin/python"
PACKAGES = (
    *("systemd-sysv", "dbus", "python3", "python3-venv", "curl"),
    *("ocl-icd-libopencl1", "pocl-opencl-icd"),  # a device for the local platform's jobs
)
CONFIG = """\
listen: ["tcp:50051:interface=127.0.0.1"]
state_dir: /var/lib/cumulusd
platform:
  type: local
  local: {count_cpu_devices: true}
"""
#: What a start or a stop may take on a machine that is busy with others' tests, too.
TIMEOUT_S = 180.0
_COMMAND = "#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"


def make_tree() -> Path:
    """Debian with systemd and what the daemon stands on, kept in the cache; our own code is not in
    it. The first time takes minutes."""
    # What our package needs; and how it is put together here, to be counted up with a change.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = f"1 {PACKAGES} {project['dependencies']} {extras['agent']} {extras['daemon']}"
    key = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    tree = make_packages_tree(f"{SUITE}-systemd-{key}", SUITE, PACKAGES)
    for old in tree.parent.glob(f"{SUITE}-systemd-*"):
        if old != tree:
            shutil.rmtree(old)
    done = tree / VENV.lstrip("/") / "whole"
    if not done.exists():
        _install_venv(tree)
        done.touch()
    return tree


def _install_venv(tree: Path) -> None:
    venv = tree / VENV.lstrip("/")
    _run("chroot", str(tree), "python3", "-m", "venv", "--clear", "--without-pip", VENV)
    (packages,) = venv.glob("lib/python3.*/site-packages")
    version = packages.parent.name.removeprefix("python")
    uv = Path(sys.executable).with_name("uv")
    _run(
        *(str(uv), "pip", "install", "--quiet", "--no-build", f"--target={packages}"),
        *(f"--python-version={version}", "--python-platform=x86_64-manylinux_2_36"),
        *("-r", str(ROOT / "pyproject.toml"), "--extra", "daemon"),
    )
    (packages / "cumulus.pth").write_text(f"{CODE}\n")
    for command, module, name in (
        ("twistd", "twisted.scripts.twistd", "run"),
        ("cumulusd", "cumulusd.cli", "main"),
    ):
        path = venv / "bin" / command
        path.write_text(_COMMAND.format(python=PYTHON, module=module, name=name))
        path.chmod(0o755)
    _run("chroot", str(tree), PYTHON, "-m", "compileall", "-q", f"{VENV}/lib")


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


class SystemdMachine:
    """The daemon's machine. Each `configure` begins anew, with an empty state."""

    def __init__(self, machine: BareMachine) -> None:
        self.machine = machine

    @classmethod
    def boot(cls, cluster: Cluster, tree: Path, number: int) -> "SystemdMachine":
        """Up, with unit and code installed; nothing runs yet."""
        made = cls(BareMachine.boot(cluster.layout, tree, number=number))
        try:
            made._install()
        except BaseException:
            made.machine.shut_down()
            raise
        return made

    def _install(self) -> None:
        # As a machine has it of its own; credentials come by a mount that systemd makes elsewhere.
        self.run("mount", "--make-rshared", "/")
        root = self.machine.root
        code = root / CODE.lstrip("/")
        code.mkdir(parents=True)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name in ("cumulus_wire", "cumulusd", "cumulus_client", "cumulus_runner", "twisted"):
                tar.add(ROOT / name, name, filter=_readable)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as tar:
            tar.extractall(code, filter="tar")
        self.run("useradd", "--system", "--home-dir=/var/lib/cumulusd", "cumulusd")
        self.run("groupadd", "--force", "docker")
        self.run("mkdir", "--parents", "/etc/cumulus")
        for unit in ("cumulusd.service", "cumulusd.socket"):
            self.write(f"/etc/systemd/system/{unit}", (UNITS / unit).read_text())

    def configure(self, config: str = CONFIG, platform: str = "local", **dropins: str) -> None:
        """Stopped, the state forgotten; then that configuration, and these drop-ins."""
        folder = "/etc/systemd/system/cumulusd.service.d"
        self.systemctl("stop", "cumulusd.socket", "cumulusd.service")
        self.run("rm", "-rf", "/var/lib/cumulusd", folder)
        self.run("mkdir", folder)
        self.write("/etc/cumulus/cumulusd.yaml", config)
        dropins[platform] = (UNITS / f"dropins/{platform}.conf").read_text()
        for name, text in dropins.items():
            self.write(f"{folder}/{name}.conf", text)
        self.systemctl("daemon-reload")
        self.machine.run("systemctl", "reset-failed", "cumulusd.service")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's."""
        there = self.machine.root / path.lstrip("/")
        there.write_text(text)
        there.chmod(mode)

    def run(self, *command: str, timeout_s: float = TIMEOUT_S) -> str:
        """A command of root's: its stdout. Raises MachineError when it fails."""
        return self.machine.check(*command, timeout_s=timeout_s)

    def systemctl(self, *words: str) -> str:
        """Raises MachineError when it fails; the journal tells why."""
        return self.run("systemctl", *words)

    def show(self, name: str) -> str:
        """A property of the daemon's unit."""
        return self.systemctl("show", "--value", f"--property={name}", "cumulusd").strip()

    def wait_shown(self, name: str, *values: str) -> str:
        """Returns it once the property has one of these values, or begins so."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := self.show(name)).startswith(values):
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is {value!r}, not {values}: {self.journal()}")
            time.sleep(0.1)
        return value

    def journal(self, *options: str) -> str:
        """The daemon's lines since the machine was made."""
        return self.run("journalctl", "--no-pager", "-u", "cumulusd", "-o", "cat", *options)

    def signal(self, name: str) -> None:
        """Sends the daemon's process a signal."""
        self.systemctl("kill", "--kill-who=main", f"--signal={name}", "cumulusd")

    def begin(self, unit: str, script: str) -> None:
        """Runs a user's script beside; what it prints is in /root/<unit>.out."""
        self.write(f"/root/{unit}.py", script)
        self.run(
            *("systemd-run", f"--unit={unit}", "--quiet", "--collect"),
            *(
                f"--property=StandardOutput=file:/root/{unit}.out",
                "--property=StandardError=journal",
            ),
            *(PYTHON, "-u", f"/root/{unit}.py"),
        )

    def output(self, unit: str) -> str:
        """What that script has printed."""
        path = self.machine.root / f"root/{unit}.out"
        return path.read_text() if path.exists() else ""

    def wait_output(self, unit: str, text: str) -> str:
        """Returns once it has printed that."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in (found := self.output(unit)):
            if time.monotonic() > deadline:
                told = self.run("journalctl", "--no-pager", "-u", unit, "-o", "cat")
                raise AssertionError(f"no {text!r} in {found[-2000:]!r}: {told[-3000:]}")
            time.sleep(0.1)
        return found

    def get(self, path: str, *options: str) -> str:
        """The status of a GET."""
        return self.run(
            *("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"),
            *(*options, f"http://127.0.0.1:50051{path}"),
        )


def _readable(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """For every user, whatever the checkout's modes are."""
    if "__pycache__" in info.name:
        return None
    info.mode = 0o755 if info.isdir() else 0o644
    info.uid = info.gid = 0
    return info
