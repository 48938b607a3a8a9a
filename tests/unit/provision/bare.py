"""A machine for worker.sh that is none: a root of its own and commands that note their calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.unit.provision.fake_servers import TOKEN, FakeEngine, FakeOrchestrator

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "provision" / "worker.sh"
#: What gcc is told to build a library with Chronos' interface.
DOUBLE = ROOT / "tests/unit/chronos" / "libchronos_double.c -fPIC -pthread -lm"

#: Those of this machine's own that the script may use.
_REAL = (
    *(
        "awk",
        "bash",
        "cat",
        "chmod",
        "comm",
        "cp",
        "curl",
        "cut",
        "date",
        "df",
        "env",
        "find",
        "flock",
    ),
    *("gcc", "getconf", "git", "grep", "gzip", "head", "id", "install", "make", "mkdir", "mktemp"),
    *("mv", "nproc", "readlink", "rm", "rmdir", "sed", "seq", "sha256sum", "sleep", "sort", "tail"),
    *("tar", "tee", "timeout", "tr", "uname", "wc", "xargs"),
)
_PREINSTALLED = ("ca-certificates", "curl", "python3", "iproute2", "tar", "git", "gcc", "g++")

_NOTE = 'echo "${0##*/} $*" >>"$FAKE/calls"\n'
_ENGINE = 'curl -sf --unix-socket "$FAKE/../docker.sock" -X POST "http://docker/_fake/'
_COMMANDS = {
    "apt-get": r"""
simulate=
for word in "$@"; do
    case $word in
        install | update | purge | autoremove) verb=$word ;;
        --simulate) simulate=yes ;;
    esac
done
[ "$verb" != update ] || exit 0
if [ "$verb" = autoremove ]; then
    sort -u "$FAKE/auto" | sed 's/.*/Remv & [1.0]/'
    exit
fi
seen=
for word in "$@"; do
    [ "$seen" ] || { [ "$word" = "$verb" ] && seen=yes; continue; }
    case $word in -*) continue ;; esac
    if [ "$simulate" ]; then
        echo "Inst $word (1.0 Debian [amd64])"
        [ "$word" != docker.io ] || echo "Inst containerd (1.0 Debian [amd64])"
        continue
    fi
    if grep -qsx "$word" "$FAKE/apt-fails"; then
        echo "E: Unable to locate package $word"
        exit 100
    fi
    if [ "$verb" = purge ]; then
        sed -i "/^$word\$/d" "$FAKE/installed"
        [ "$word" != docker.io ] || rm "$FAKE/bin/dockerd"
    else
        echo "$word" >>"$FAKE/installed"
        case $word in
            docker.io)
                echo containerd | tee -a "$FAKE/auto" >>"$FAKE/installed"
                printf '#!/bin/sh\necho "Docker version 20.10.24"\n' >"$FAKE/bin/dockerd"
                chmod +x "$FAKE/bin/dockerd"
                # A package of its own since Debian 13.
                apt-cache show docker-cli || cp "$FAKE/bin/dockerd" "$FAKE/bin/docker"
                systemctl start docker.service
                ;;
            nvidia-container-toolkit)
                printf '#!/bin/sh\n' >"$FAKE/bin/nvidia-container-runtime"
                chmod +x "$FAKE/bin/nvidia-container-runtime"
                ;;
        esac
    fi
done
""",
    "apt-cache": """grep -q '"13"' "$CUMULUS_PROVISION_ROOT/etc/os-release"\n""",
    "apt-mark": 'echo "$2" >>"$FAKE/auto"\n',
    "dpkg": 'case $1 in --print-architecture) cat "$FAKE/architecture" ;; esac\n',
    "dpkg-query": """
for name in "$@"; do :; done
if grep -qx -- "$name" "$FAKE/installed"; then printf installed; else exit 1; fi
""",
    "systemctl": f"""
case $1 in
    start | stop | restart) {_ENGINE}$1" ;;
    cat) echo "ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock" ;;
esac
""",
    "service": f'{_ENGINE}$2"\n',
    "journalctl": "echo 'dockerd: it said why'\n",
    "hostname": """
if [ $# = 0 ]; then cat "$FAKE/hostname"; else echo "$1" >"$FAKE/hostname"; fi
""",
    "systemd-detect-virt": 'cat "$FAKE/container"\n',
    "unshare": '[ ! -e "$FAKE/unshare-fails" ]\n',
    "nvidia-smi": 'cat "$FAKE/nvidia-smi"\n',
    "ldconfig": "",
}
#: Whose calls change nothing.
_LOOKS = (
    "apt-cache",
    "dpkg",
    "dpkg-query",
    "hostname",
    "systemd-detect-virt",
    "nvidia-smi",
    "journalctl",
)


class Bare:
    """The machine: `root`, its files; `run`, the script on it; `calls`, what it called."""

    def __init__(self, folder: Path, orchestrator: FakeOrchestrator, engine: FakeEngine) -> None:
        self.root, self.fake = folder, folder / "fake"
        self.orchestrator, self.engine = orchestrator, engine
        self.daemon_json = self.root / "etc/docker/daemon.json"
        self.log = self.root / "var/log/cumulus-worker.log"
        self.release("debian", "12")
        self.write("fake/architecture", "amd64")
        self.write("fake/container", "none")
        self.write("fake/hostname", "bare")
        self.write("fake/installed", "\n".join(_PREINSTALLED) + "\n")
        self.write("etc/machine-id", "0123456789abcdef" * 2 + "\n")
        self.write("etc/hosts", "127.0.0.1\tlocalhost\n")
        self.write("etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 10.7.0.1\n")
        self.write("proc/meminfo", "MemTotal:       16000000 kB\n")
        self.write("proc/1/environ", "PATH=/bin\0")
        for name in ("run/systemd/system", "sys/fs/cgroup", "var/lib", "tmp"):
            (self.root / name).mkdir(parents=True)
        programs = self.fake / "bin"
        programs.mkdir()
        for name in _REAL:
            found = shutil.which(name)
            assert found, f"this machine has no {name}"
            # By their own path: what they call themselves is looked for where they expect it.
            path = os.environ["PATH"] if name in ("gcc", "make", "git", "tar") else ""
            self.program(name, (f"PATH={path} " if path else "") + f'exec {found} "$@"\n')
        # Others than the test's own servers are not to be asked.
        self.program(
            "curl",
            'case "$*" in *nvidia.github.io*) echo "curl $*" >>"$FAKE/calls"; exit 0 ;; esac\n'
            f'exec {shutil.which("curl")} "$@"\n',
        )
        self.program("python3", f'exec {sys.executable} "$@"\n')
        for name, text in _COMMANDS.items():
            self.program(name, ("" if name in _LOOKS else _NOTE) + text)

    def program(self, name: str, text: str) -> None:
        """A program that the machine has."""
        path = self.fake / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        """A file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def release(self, name: str, version: str) -> None:
        """Which distribution this is."""
        self.write(
            "etc/os-release",
            f'PRETTY_NAME="{name.title()} {version}"\nID={name}\nVERSION_ID="{version}"\n',
        )

    def user(self, uid: int) -> None:
        """Who runs the script."""
        self.program("id", f'case $1 in -u) echo {uid} ;; *) echo "somebody" ;; esac\n')

    def gpu(self, said: str = "GPU 0: NVIDIA A10 (UUID: GPU-1)") -> None:
        """A GPU of NVIDIA's, and what `nvidia-smi -L` says."""
        self.write("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
        self.write("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
        self.write("fake/nvidia-smi", said + "\n")

    @property
    def calls(self) -> list[str]:
        """What was called that may change something, in order."""
        path = self.fake / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def called(self, beginning: str) -> list[str]:
        """Those that begin so."""
        return [one for one in self.calls if one.startswith(beginning)]

    def files(self) -> dict[str, str]:
        """All files below the root but those of the fake, and what is in them."""
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and self.fake not in path.parents
        }

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """worker.sh with those words, and `--chronos-source none` unless they name one."""
        if "--uninstall" not in words and "--chronos-source" not in words:
            words = (*words, "--chronos-source", "none")
        return self.run_bare(*words, **variables)

    def run_bare(
        self, *words: str, timeout_s: float = 100, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """worker.sh with those words alone."""
        environment = {
            "PATH": str(self.fake / "bin"),
            "FAKE": str(self.fake),
            "TMPDIR": str(self.root / "tmp"),
            "CUMULUS_PROVISION_ROOT": str(self.root),
            "CUMULUS_PROVISION_PACE": "0",
            **variables,
        }
        return subprocess.run(
            ["/bin/bash", SCRIPT, *words],
            env={name: text for name, text in environment.items() if text},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def join(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Makes it a worker."""
        variables.setdefault("CUMULUS_PROVISION_TOKEN", TOKEN)
        return self.run("--orchestrator", self.orchestrator.url, *words, **variables)


Done = subprocess.CompletedProcess[str]


def good(done: Done) -> str:
    """What it said on stderr, when it did what it should."""
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def bad(done: Done, *words: str) -> str:
    """What it said, when a step failed, with those words in it."""
    assert done.returncode == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr
