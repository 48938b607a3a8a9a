"""What `provision` tests have in common: a daemon with TLS that serves worker.sh, and a machine
that runs what an operator is shown."""

import io
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from engines.cluster import Cluster
from engines.machine import BareMachine
from tests.e2e.harness import REPOSITORY, free_port
from tests.engine.swarm_daemon import SwarmDaemon
from tests.security.authority import Authority

#: Of the machine's: where the agent sees it too.
WORKER_ROOT = "var/lib/cumulus"
#: The double's folder: what it was called for is written there.
CHRONOS_CALLS = "chronos-double"
LOG = "var/log/cumulus-worker.log"


class ProvisioningDaemon(SwarmDaemon):
    """A daemon that workers know by its certificate's key; no node is enrolled at the start."""

    def __init__(self, folder: Path, cluster: Cluster, images: Mapping[str, str]) -> None:
        super().__init__(folder, cluster, images, enroll=False)
        address, port = cluster.layout.bridge_address, free_port()
        authority = Authority(folder / "tls", "tests' own")
        certificate, key = authority.issue("daemon", hosts=(address,))
        config = yaml.safe_load(self.config.read_text())
        config["listen"] = [
            f"tcp:{self.port}:interface=127.0.0.1",
            f"ssl:{port}:interface={address}:privateKey={key}:certKey={certificate}",
        ]
        del config["allow_plain_tokens"]
        swarm = config["platform"]["swarm"]
        swarm["advertise_url"] = f"wss://{address}:{port}"
        swarm["advertise_ca"] = str(authority.path)
        # As an operator's with private addresses: jobs reach no node and not this machine.
        config["provisioning"] = {"deny": [cluster.layout.subnet]}
        self.config.write_text(yaml.safe_dump(config))

    def join_token(self) -> str:
        """By which nodes join the Swarm now."""
        return str(self.cluster.api().call("GET", "/swarm")["JoinTokens"]["Worker"])

    def wait_forgotten(self, name: str) -> None:
        """Returns once the Swarm has no such node any more."""
        deadline = time.monotonic() + 60
        while name in (
            listed := [
                node["Description"]["Hostname"] for node in self.cluster.api().call("GET", "/nodes")
            ]
        ):
            assert time.monotonic() < deadline, listed
            time.sleep(0.2)

    def worker_command(self) -> str:
        """What `cumulusd provision-token create` shows: the line to run on the new worker."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "cumulusd.cli", "provision-token", "create"),
                *("--config", str(self.config)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=REPOSITORY,
        )
        assert done.stdout.startswith("cpt_")
        (line,) = re.findall(r"^ *(curl .*)$", done.stderr, re.MULTILINE)
        assert done.stdout.strip() in line
        return str(line)


def give_chronos_source(machine: BareMachine) -> str:
    """Puts a source archive with Chronos' ABI on the machine, as one gets it: the path there."""
    double = REPOSITORY / "tests/unit/chronos/libchronos_double.c"
    folder = f"/{WORKER_ROOT}/{CHRONOS_CALLS}"
    makefile = (
        "libchronos.so: chronos.c\n"
        "\t$(CC) -std=c11 -D_GNU_SOURCE -O1 -shared -fPIC -pthread "
        f"-DCHRONOS_DOUBLE_FOLDER='\"{folder}\"' -o $@ $< -lm\n"
    )
    path = machine.root / "root/chronos-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("Makefile", makefile.encode()), ("chronos.c", double.read_bytes())):
            entry = tarfile.TarInfo(f"chronos-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return "/root/chronos-1.0.tar.gz"


def log_of(machine: BareMachine) -> str:
    """worker.sh's own log: what a failed test shows."""
    path = machine.root / LOG
    return path.read_text(errors="replace") if path.exists() else "no log"


def begin_and_kill(machine: BareMachine, command: str, words: str) -> None:
    """Runs it until it has logged `words`, and ends all of it at once, as a lost login would."""
    unit = "rig-killed"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(machine.run, "bash", "-c", command, timeout_s=300, unit=unit)
        deadline = time.monotonic() + 300
        while not re.search(words, log_of(machine)):
            assert not running.done(), log_of(machine)[-4000:]
            assert time.monotonic() < deadline, log_of(machine)[-4000:]
            time.sleep(0.1)
        machine.kill_unit(unit)
        assert running.result().returncode != 0


def files_of(machine: BareMachine) -> set[str]:
    """Paths in the folders that provisioning writes to, of those that a package manager doesn't."""
    roots = ["etc/cumulus", "etc/docker", "etc/systemd/system", "etc/OpenCL", "usr/local", "opt"]
    roots += ["root", "var/lib/cumulus", "var/lib/cumulus-provision"]
    found = set()
    for name in roots:
        for folder, folders, files in os.walk(machine.root / name):
            found |= {
                str((Path(folder) / one).relative_to(machine.root)) for one in (*folders, *files)
            }
        if (machine.root / name).exists():
            found.add(name)
    return found
