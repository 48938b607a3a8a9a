"""The system that is tortured, and the hands that break it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cumulus_wire import folder
from engines.cluster import Cluster
from engines.docker_api import DockerError
from tests.e2e.harness import REPOSITORY
from tests.engine.swarm_daemon import TOKENS, SwarmDaemon
from tests.torture import disk
from tests.torture.plan import Fault, Strike
from tests.torture.seen import OnDisk, Window

#: How long a daemon may take to serve again, a worker to be of use again.
DAEMON_BACK_S = 90.0
WORKER_BACK_S = 120.0
#: Whoever holds these processes dies, they die: by the kernel's doing.
_DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
#: How long a runner is looked for that can be killed.
RUNNER_WAIT_S = 15.0
#: These hit the worker that has the most to lose.
AT_WORKERS = (Fault.ENGINE_KILL, Fault.LINK_CUT)
#: How long an agent is, whose node may be down just now.
AGENT_WAIT_S = 60.0

#: Tells whoever runs the torture how it goes.
Say = Callable[[str], None]


class StageError(Exception):
    """The system did not come back within its bounds, or answered with an error."""


class TorturedDaemon(SwarmDaemon):
    """Ends with this process, even when that is killed. Start it on the main thread only: the
    kernel takes the thread for the parent."""

    command_prefix = _DIE_WITH_US


class Client:
    """A reader's process (see `reader`), which remembers what it was told to follow."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self.name = name
        self.folder = folder / name
        self._url = url
        self._orders: dict[str, bytes] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, or starts it again after `kill`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "stderr", "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_DIE_WITH_US,
                *(sys.executable, "-P", "-m", "tests.torture.reader"),
                *(self._url, TOKENS["client"], str(self.folder)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        for order in self._orders.values():
            self._send(order)

    @property
    def follows(self) -> set[str]:
        """Names of the jobs that it follows."""
        return set(self._orders)

    def follow(self, name: str, order: bytes) -> None:
        """One more job to follow. `order`: a line of JSON."""
        self._orders[name] = order
        self._send(order)

    def _send(self, order: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(order + b"\n")

    def signal(self, number: int) -> None:
        """Sends a signal, if it is there."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9; what it was told is told to the next one."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def finish(self, timeout_s: float) -> int | None:
        """Its exit code, once it has read all to the end; None: killed for taking too long."""
        process = self._process
        assert process is not None and process.stdin is not None
        process.stdin.close()
        try:
            return await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            await self.kill()
            return None

    def last_words(self) -> str:
        """What it said on stderr."""
        return (self.folder / "stderr").read_text(errors="replace")[-3000:]


class Stage:
    """Cluster, daemon, and every way to break them. Each strike comes back when all is mended."""

    def __init__(self, cluster: Cluster, images: Mapping[str, str], folder: Path) -> None:
        self.cluster = cluster
        self.daemon = TorturedDaemon(folder, cluster, images)
        self.on_disk: dict[str, list[OnDisk]] = {}
        self.windows: list[Window] = []
        #: Whether this round harms who would see that a worker is cut off.
        self.blinded = False
        #: Clients that may be stopped and killed.
        self.victims: list[Client] = []
        #: Jobs whose runner may be killed, by id.
        self.runner_targets: set[str] = set()

    # --- up and down ------------------------------------------------------------------------------

    async def start_daemon(self) -> None:
        """Starts it; comes back when it answers at all."""
        self.daemon.start(wait=False)
        await self._until(self._answers, DAEMON_BACK_S, "the daemon to answer")

    def _answers(self) -> bool:
        process = self.daemon.process
        if process is not None and process.poll() is not None:
            raise StageError(f"cumulusd ended by itself: {self.daemon.log_text()[-3000:]}")
        try:
            self.daemon.get("/health")
        except OSError:
            return False
        return True

    async def wait_usable(self) -> None:
        """All workers are of use again."""
        await self._until(self._all_usable, WORKER_BACK_S, "all workers to be of use")

    def _all_usable(self) -> bool:
        try:
            text = self.daemon.get("/metrics", TOKENS["admin"])[1]
        except OSError:
            return False
        return f'cumulus_workers{{state="ready"}} {float(len(self.cluster.workers))}' in text

    async def _until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(done):
            if time.monotonic() > deadline:
                raise StageError(f"waited {timeout_s:g} s for {what}, in vain")
            await asyncio.sleep(0.2)

    def leftovers(self) -> dict[str, list[str]]:
        """Counter -> what is left of jobs."""
        partitions = [
            f"{worker}: {partition}"
            for worker, there in self.daemon.partitions().items()
            for partition in there
        ]
        partitions += [f"folder {path}" for path in self.daemon.folders()]
        return {
            "leaked_services": self.daemon.services(),
            "leaked_containers": self.daemon.containers(),
            "leaked_partitions": partitions,
        }

    # --- breaking ---------------------------------------------------------------------------------

    async def strike(self, strike: Strike) -> bool:
        """Carries it out and mends it. False: there was nothing to break."""
        hands: dict[Fault, Callable[[Strike], Awaitable[bool]]] = {
            Fault.DAEMON_KILL: self._daemon_kill,
            Fault.ENGINE_KILL: self._engine_kill,
            Fault.LINK_CUT: self._link_cut,
            Fault.MANAGER_RESTART: self._manager_restart,
            Fault.AGENT_KILL: self._agent_kill,
            Fault.RUNNER_KILL: self._runner_kill,
            Fault.READERS_STALLED: self._readers_stalled,
            Fault.CLIENT_KILL: self._client_kill,
        }
        if strike.fault in AT_WORKERS:
            strike = replace(strike, worker=self._busiest(strike.worker))
        return await hands[strike.fault](strike)

    def _busiest(self, worker: str) -> str:
        """The worker with the most folders of jobs; that one where others have no more."""
        layout = self.cluster.layout
        folders = {
            node.name: len(list((layout.worker_root(node) / "jobs").glob("job_*")))
            for node in layout.workers
        }
        return max(folders, key=lambda name: (folders[name], name == worker))

    async def _daemon_kill(self, strike: Strike) -> bool:
        self.daemon.kill()
        await asyncio.sleep(strike.lasts_s)
        await self.start_daemon()
        return True

    async def _engine_kill(self, strike: Strike) -> bool:
        began_at = time.time()
        await asyncio.to_thread(self.cluster.kill, strike.worker)
        await asyncio.to_thread(self._look, strike)
        await asyncio.sleep(strike.lasts_s)
        await asyncio.to_thread(self.cluster.start, strike.worker)
        await self.wait_usable()
        self._hit(strike, began_at, worker=strike.worker)
        return True

    async def _link_cut(self, strike: Strike) -> bool:
        began_at = time.time()
        await asyncio.to_thread(self.cluster.cut, strike.worker)
        await asyncio.sleep(strike.lasts_s)
        await asyncio.to_thread(self._look, strike)
        await asyncio.to_thread(self.cluster.mend, strike.worker)
        await asyncio.to_thread(self.cluster.wait_ready)
        await self.wait_usable()
        self._hit(strike, began_at, worker=strike.worker)
        return True

    async def _manager_restart(self, strike: Strike) -> bool:
        await asyncio.to_thread(self.cluster.kill, self.cluster.manager.name)
        await asyncio.sleep(strike.lasts_s)
        await asyncio.to_thread(self.cluster.start, self.cluster.manager.name)
        return True

    async def _agent_kill(self, strike: Strike) -> bool:
        deadline = time.monotonic() + AGENT_WAIT_S
        while not await asyncio.to_thread(self._kill_agent, strike.worker):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(1.0)
        return True

    def _kill_agent(self, worker: str) -> bool:
        api = self.cluster.api(worker)
        try:
            there = api.call("GET", "/containers/json")
            ids = [
                container["Id"]
                for container in there
                if any("cumulus-agent-" in name for name in container["Names"])
            ]
            for container in ids:
                api.call("POST", f"/containers/{container}/kill")
        except DockerError:
            return False  # its engine is down just now: asked again
        return bool(ids)

    async def _runner_kill(self, strike: Strike) -> bool:
        deadline = time.monotonic() + RUNNER_WAIT_S
        while not (runners := self._runners()):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        job_id, pid, worker = min(runners)
        began_at = time.time()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False  # it ended at this moment
        # Nobody writes its journal any more; the agent may delete what is acknowledged.
        there = disk.look(
            self.cluster.layout.worker_root(self.cluster.layout.named(worker)), strike.fault
        )
        if job_id in there:
            self.on_disk.setdefault(job_id, []).append(there[job_id])
        self._hit(strike, began_at, job_id=job_id)
        return True

    def _runners(self) -> list[tuple[str, int, str]]:
        """(job id, process id, worker) of those that may be killed."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                is_code = (entry / "comm").read_text(errors="replace").strip() == folder.CODE_NAME
            except OSError:
                continue  # it ended meanwhile
            # The container's init has the same words behind its own, and a copy runs the code.
            if not any("/cumulus_runner/" in word for word in words) or "python" not in words[0]:
                continue
            if is_code:
                continue
            job_id = next((w.rpartition("/")[2] for w in words if "/job_" in w), "")
            if job_id in self.runner_targets and (worker := self._worker_with(job_id)):
                found.append((job_id, int(entry.name), worker))
        return found

    def _worker_with(self, job_id: str) -> str | None:
        layout = self.cluster.layout
        for node in layout.workers:
            if (layout.worker_root(node) / "jobs" / job_id / "journal").exists():
                return node.name
        return None

    async def _readers_stalled(self, strike: Strike) -> bool:
        for client in self.victims:
            client.signal(signal.SIGSTOP)
        await asyncio.sleep(strike.lasts_s)
        for client in self.victims:
            client.signal(signal.SIGCONT)
        return bool(self.victims)

    async def _client_kill(self, strike: Strike) -> bool:
        for client in self.victims:
            await client.kill()
        await asyncio.sleep(strike.lasts_s)
        for client in self.victims:
            await client.start()
        return bool(self.victims)

    def _look(self, strike: Strike) -> None:
        layout = self.cluster.layout
        there = disk.look(layout.worker_root(layout.named(strike.worker)), strike.fault)
        for job_id, found in there.items():
            self.on_disk.setdefault(job_id, []).append(found)

    def _hit(
        self,
        strike: Strike,
        began_at: float,
        *,
        worker: str | None = None,
        job_id: str | None = None,
    ) -> None:
        self.windows.append(
            Window(
                fault=strike.fault,
                began_at=began_at,
                over_at=time.time(),
                worker=worker,
                job_id=job_id,
                unseen=self.blinded,
            )
        )

    # --- evidence ---------------------------------------------------------------------------------

    def log_of(self, job_id: str, lines: int = 30) -> str:
        """What the daemon logged of a job."""
        found = [line for line in self.daemon.log_text().splitlines() if job_id in line]
        return "\n".join(line[:600] for line in found[-lines:])

    def keep(self, target: Path) -> None:
        """Copies the daemon's log, the readers' copies and the agents' words to where they stay."""
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.daemon.log, target / "cumulusd.log")
        for node in self.cluster.layout.workers:
            (target / f"agent-{node.name}.log").write_text(self._agent_words(node.name))

    def _agent_words(self, worker: str) -> str:
        api = self.cluster.api(worker)
        text = ""
        try:
            for container in api.call("GET", "/containers/json", query={"all": "1"}):
                if any("cumulus-agent-" in name for name in container["Names"]):
                    query = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "2000"}
                    words = api.call("GET", f"/containers/{container['Id']}/logs", query=query)
                    text += f"=== {container['Id'][:12]} {container['Status']}\n{words}\n"
        except DockerError as error:
            text += f"[no more can be read: {error}]\n"
        return text


def summary(windows: list[Window]) -> list[dict[str, Any]]:
    """Windows as JSON takes them, for the evidence."""
    return [
        {
            "fault": w.fault,
            "worker": w.worker,
            "job_id": w.job_id,
            "at": w.began_at,
            "to": w.over_at,
        }
        for w in windows
    ]
