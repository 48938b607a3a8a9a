"""A bare Debian 12 machine beside a cluster, as a virtual machine would be: booted by its own
systemd, with its own network, disk and cgroups, and with nothing of Docker or Cumulus on it.

It is on the cluster's bridge, gets names from the cluster's forwarder, and carries its tag: it ends
with the process that booted it at the latest, and what is left of it goes with the cluster.

A real systemd runs in namespaces as it does in a container, and an engine of the machine's own
works inside, since the machine's root is a plain folder and its cgroup namespace has every
hierarchy. `/proc/sys` is read-only but for its network: the kernel's other settings are this
machine's.
"""

import contextlib
import ipaddress
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines import network
from engines.commands import ToolError, run
from engines.engine import MARK
from engines.layout import Layout, NodeLayout
from engines.release import make_packages_tree
from engines.sweep import cgroups_of_node

__all__ = ["BareMachine", "MachineError", "make_machine_tree"]

#: What a provider's image of Debian has besides the essential.
PACKAGES = ("systemd-sysv", "dbus", "ca-certificates", "iproute2", "curl", "procps")
SUITE = "bookworm"
#: Number of the first machine's; the nodes of a cluster are below.
FIRST_NUMBER = 100
BOOT_TIMEOUT_S = 120.0
END_TIMEOUT_S = 30.0
_CGROUPS = Path("/sys/fs/cgroup")
_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1 root, $2 host name, then cgroup folders to join, `--`, and pairs of a hierarchy's place under
# /sys/fs/cgroup and its mount options (`cgroup2` for the unified one).
_JOIN = r"""
set -eu
root=$1 name=$2
shift 2
hostname "$name"
while [ "$1" != -- ]; do
    echo 0 >"$1/cgroup.procs" # this process, whatever its number outside
    shift
done
shift
# With the cgroup namespace these folders are the roots of their hierarchies.
exec unshare --cgroup -- sh -c "$CUMULUS_MOUNTS" machine "$root" "$@"
"""

_MOUNTS = r"""
set -eu
root=$1
shift
if [ -d /run/netns ]; then
    umount -R -l /run/netns 2>/dev/null || true # nothing is mounted there in most cases
fi
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -o remount,bind,rw proc/sys/net
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid,nodev,noexec,size=1m tmpfs sys/fs/cgroup
while [ $# -gt 0 ]; do
    place=sys/fs/cgroup$1
    [ -d "$place" ] || mkdir "$place"
    case $2 in
    cgroup2) mount -t cgroup2 cgroup2 "$place" ;;
    *) mount -t cgroup -o "$2" cgroup "$place" ;;
    esac
    shift 2
done
mount -t tmpfs -o mode=755,nosuid,size=1m tmpfs dev
for device in null zero full random urandom tty; do
    cp -a "/dev/$device" dev/
done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev,size=256m tmpfs run
mkdir -p outside
pivot_root . outside
exec chroot . env -i container=cumulus-machine sh -euc '
umount -l /outside
rmdir /outside
exec /sbin/init' <>/dev/null >&0 2>&1
"""


class MachineError(Exception):
    """The machine did not boot, or a command in it failed; the message has its words."""


def make_machine_tree() -> Path:
    """A bare Debian's file system, kept in the cache; made now, in a minute, when it is absent."""
    return make_packages_tree(f"{SUITE}-machine", SUITE, PACKAGES)


class BareMachine:
    """One machine that is up. Made by `boot`; a context manager that shuts it down."""

    def __init__(self, layout: Layout, node: NodeLayout, folder: Path) -> None:
        self._layout = layout
        self._node = node
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._init_pid = 0

    @classmethod
    def boot(
        cls,
        layout: Layout,
        tree: Path,
        *,
        number: int = FIRST_NUMBER,
        environ: Mapping[str, str] = os.environ,
    ) -> "BareMachine":
        """A machine of its own disk (a copy of `tree`), up to systemd's `running`.

        `environ`: this machine's, for the CA bundle that networks with one need. MachineError when
        it doesn't come up; then nothing is left of it.
        """
        addresses = list(ipaddress.ip_network(layout.subnet).hosts())
        node = NodeLayout(f"bare{number}", number, str(addresses[number]), worker=False)
        machine = cls(layout, node, layout.base / f"machine{number}")
        try:
            machine._make_disk(tree, environ)
            machine._connect()
            machine._start()
            machine._wait_booted()
        except (OSError, ToolError, subprocess.TimeoutExpired) as error:
            machine.shut_down()
            raise MachineError(f"no machine: {error}") from error
        except BaseException:
            machine.shut_down()
            raise
        return machine

    @property
    def name(self) -> str:
        """Its host name."""
        return self._node.name

    @property
    def address(self) -> str:
        return self._node.address

    @property
    def root(self) -> Path:
        """Its file system, as this machine sees it (without what it mounts)."""
        return self._folder / "root"

    # --- using ----------------------------------------------------------------------------------

    def run(
        self,
        *command: str,
        timeout_s: float = 60.0,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        unit: str | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """A command as root's login would run it, to its end; whatever its exit code.

        It is a service of the machine's systemd, named `unit` where that is given. MachineError
        when it takes longer; it is ended then.
        """
        name = unit or f"rig-{time.monotonic_ns():x}"
        words = ["systemd-run", "--pipe", "--wait", "--quiet", "--collect", f"--unit={name}"]
        words += ["--setenv=HOME=/root", f"--setenv=PATH={_PATH}", "--working-directory=/root"]
        words += [f"--setenv={key}={text}" for key, text in (environment or {}).items()]
        try:
            return subprocess.run(
                [*self._enter(), *words, "--", *command],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            self.kill_unit(name)
            said = (error.stdout or b"") + (error.stderr or b"")
            raise MachineError(
                f"`{' '.join(command)}` on {self.name} did not end within {timeout_s:g} s; "
                f"it said: {said.decode(errors='replace')[-4000:]}"
            ) from None

    def check(self, *command: str, timeout_s: float = 60.0, stdin: str = "") -> str:
        """As `run`: the command's stdout. MachineError when it fails."""
        done = self.run(*command, timeout_s=timeout_s, stdin=stdin)
        if done.returncode != 0:
            raise MachineError(
                f"`{' '.join(command)}` on {self.name} failed ({done.returncode}): "
                f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return done.stdout

    def kill_unit(self, name: str) -> None:
        """Ends a command that was run as `unit` at once, with all that it started."""
        subprocess.run(
            [*self._enter(), "systemctl", "kill", "--signal=KILL", f"{name}.service"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=END_TIMEOUT_S,
        )

    def is_active(self, unit: str) -> bool:
        """Is that unit of its systemd active?"""
        return self._systemctl("is-active", "--quiet", unit).returncode == 0

    # --- the end --------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Switches it off and throws it away; back when nothing is left. May be repeated."""
        self._switch_off()
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def reboot(self) -> None:
        """Switches it off as when its power fails, and on again: its disk is what it keeps."""
        self._switch_off()
        self._connect()
        self._start()
        self._wait_booted()

    def _switch_off(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            init = _pidfd(self._init_pid)
            process.kill()  # and with it its child, the machine's first process, and all others
            process.wait(END_TIMEOUT_S)
            if init is not None:
                try:
                    if not select.select([init], [], [], END_TIMEOUT_S)[0]:
                        raise MachineError(f"{self.name} lives on after SIGKILL")
                finally:
                    os.close(init)
        namespace = self._layout.network_namespace(self._node)
        if namespace in network.namespaces_of(self._layout.tag):
            run("ip", "netns", "delete", namespace)
        link = self._layout.host_link(self._node)
        if link in network.links_of(self._layout.tag):
            run("ip", "link", "delete", link, ok=(0, 1))  # it may have gone with its other end
        deadline = time.monotonic() + END_TIMEOUT_S
        while folders := cgroups_of_node(self._layout, self._node):
            for folder in folders:
                with contextlib.suppress(OSError):  # the kernel buries the last process
                    folder.rmdir()
            if time.monotonic() > deadline:
                raise MachineError(f"cgroups of {self.name} can't be removed: {folders}")
            time.sleep(0.02)

    def __enter__(self) -> "BareMachine":
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()

    # --- within ---------------------------------------------------------------------------------

    def _make_disk(self, tree: Path, environ: Mapping[str, str]) -> None:
        self._folder.mkdir()
        run("cp", "-a", "--reflink=auto", str(tree), str(self.root), timeout_s=BOOT_TIMEOUT_S)
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text(f"nameserver {self._layout.bridge_address}\n")
        (etc / "machine-id").unlink(missing_ok=True)
        (etc / "machine-id").write_text("")  # systemd makes one, as on a first boot
        # A company's network: its certificates and its way to Debian's mirrors.
        if bundle := environ.get("SSL_CERT_FILE"):
            shutil.copyfile(bundle, self.root / _BUNDLE)
        (etc / "apt/apt.conf.d/99network").write_text(_apt_settings())

    def _connect(self) -> None:
        network.connect(self._layout, self._node)
        # A card keeps its address over a reboot: the others on the bridge remember it.
        card = ":".join(f"{part:02x}" for part in ipaddress.ip_address(self.address).packed)
        namespace = self._layout.network_namespace(self._node)
        run("ip", "-n", namespace, "link", "set", "eth0", "address", f"02:42:{card}")

    def _start(self) -> None:
        cgroups, mounts = [], []
        name = self._layout.cgroup(self._node)
        for place, options in cgroup_mounts(Path("/proc/self/mountinfo").read_text()):
            folder = Path(f"{_CGROUPS}{place}{name}")
            folder.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # of the old hierarchy: empty at first
                if options != "cgroup2" and (folder / file).exists():
                    (folder / file).write_text((folder.parent / file).read_text())
            cgroups.append(str(folder))
            mounts += [place, options]
        with open(self._folder / "console.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    "nsenter",
                    f"--net=/run/netns/{self._layout.network_namespace(self._node)}",
                    "--",
                    *("unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"),
                    *("--propagation", "private", "--"),
                    *("sh", "-c", _JOIN, "machine", str(self.root), self.name),
                    *cgroups,
                    "--",
                    *mounts,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": _PATH, MARK: self._layout.tag, "CUMULUS_MOUNTS": _MOUNTS},
                start_new_session=True,
            )

    def _wait_booted(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        state = "not begun"
        while True:
            if process.poll() is not None:
                words = (self._folder / "console.log").read_text(errors="replace")[-2000:]
                raise MachineError(f"its first process ended ({process.returncode}): {words}")
            with contextlib.suppress(FileNotFoundError):
                self._init_pid = int((children.read_text().split() or ["0"])[0])
            if self._init_pid and _command_of(self._init_pid).endswith("init"):
                state = self._systemctl("is-system-running").stdout.strip() or state
            if state == "running":
                return
            if state == "degraded" or time.monotonic() > deadline:
                failed = self._systemctl("list-units", "--failed", "--plain", "--no-legend").stdout
                jobs = self._systemctl("list-jobs").stdout
                raise MachineError(f"it is {state} and not running: {failed} {jobs}".strip())
            time.sleep(0.1)

    def _enter(self) -> Sequence[str]:
        kinds = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/")
        return ["nsenter", f"--target={self._init_pid}", *kinds, "--"]

    def _systemctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self._enter(), "systemctl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOOT_TIMEOUT_S,
        )


def cgroup_mounts(mountinfo: str) -> list[tuple[str, str]]:
    """(place under /sys/fs/cgroup, options to mount it by; `cgroup2` for the unified hierarchy).

    Of /proc/self/mountinfo's text. Pure.
    """
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point, (kind, _, options) = before.split()[4], after.split()
        if kind not in ("cgroup", "cgroup2") or not f"{point}/".startswith(f"{_CGROUPS}/"):
            continue
        place = point.removeprefix(str(_CGROUPS))
        if kind == "cgroup2":
            found.append((place, "cgroup2"))
            continue
        # What the hierarchy is: its controllers or its name, without the mount's own options.
        words = [word for word in options.split(",") if word not in ("rw", "ro", "clone_children")]
        words = [word for word in words if not re.match(r"(release_agent|xattr)", word)]
        named = any(word.startswith("name=") for word in words)
        found.append((place, ",".join(["none"] * named + words)))
    return found


def _apt_settings() -> str:
    """This machine's ways to the mirrors (proxies, certificates), as apt's own configuration."""
    try:
        dump = run("apt-config", "dump")
    except ToolError:
        return ""
    lines = [line for line in dump.splitlines() if re.match(r"Acquire::(http|https|Retries)", line)]
    return "".join(f"{line}\n" for line in lines if not line.endswith('"";'))


def _command_of(pid: int) -> str:
    """Its first word; empty when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    return ""


def _pidfd(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has ended already
        return os.pidfd_open(pid) if pid else None
    return None
