"""The embedded platform: a job's "container" is a runner process of this machine.

For a laptop without Docker. It isolates nothing but the environment variables: a job can read
what the daemon's user can read, and reach the network. It never becomes a distributed engine.
"""

import errno
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

import cumulus_runner
from cumulus_wire import folder
from cumulusd.errors import CumulusError, NotFound, Unavailable
from cumulusd.jobs.ports import Clock, Container, ContainerSpec, Disagreement, Holding, Node
from cumulusd.local import processes
from cumulusd.tasks import Tasks, sleep

NODE_ID = "local"
ISOLATION_NOTE = (
    "the local platform runs jobs as this machine's processes: separate environments and "
    "deadlines, but no isolation of files, network, CPU or memory"
)
#: How much of a runner's own log is shown when it never spoke.
_EXPLAIN_BYTES = 4096
_RUNNER = Path(cumulus_runner.__file__).parent
_FULL = (errno.ENOSPC, errno.EDQUOT)


@attrs.frozen(kw_only=True)
class _Process:
    """One launched runner, as written to disk: enough to find it again after a restart."""

    job_id: str
    attempt: int
    pid: int
    start_ticks: int
    folder: str
    stop_grace_s: float


class LocalPlatform:
    """Implements `cumulusd.jobs.ports.Platform` with subprocesses that outlive the daemon."""

    name = "local"
    _log = Logger()

    def __init__(
        self,
        *,
        root: Path,
        hostname: str,
        clock: Clock,
        runner_python: Path,
        environment: Mapping[str, str],
    ) -> None:
        """`root` holds one small file per launched runner; `runner_python` runs the runner, with
        `environment` and nothing else of the daemon's own."""
        self._root = root
        self._hostname = hostname
        self._clock = clock
        self._runner_python = runner_python
        self._environment = dict(environment)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._exit_codes: dict[str, int] = {}
        #: Runners whose file the disk didn't take yet.
        self._unsaved: dict[str, _Process] = {}
        self._tasks = Tasks()
        self._ending: dict[str, Deferred[None]] = {}
        root.mkdir(parents=True, exist_ok=True)

    # -- the Platform port

    async def nodes(self) -> Sequence[Node]:
        """This machine."""
        return [
            Node(
                node_id=NODE_ID,
                hostname=self._hostname,
                state="ready",
                availability="active",
                is_worker=True,
            )
        ]

    def foresee_launch(self) -> None:
        """There is nothing to be asked."""

    async def launch(self, spec: ContainerSpec) -> None:
        """Starts the runner in a session of its own; twice is once (the folder's lock)."""
        there = self._load(spec.job_id)
        if there is not None and there.attempt >= spec.attempt:
            if spec.job_id in self._unsaved:
                self._save(there)
            return
        if spec.cpu_cores is not None or spec.memory_bytes is not None:
            self._log.info(
                "job {job_id}: CPU and memory bounds are not enforced on the local platform",
                job_id=spec.job_id,
            )
        arguments = ["-u", str(_RUNNER / "__main__.py"), spec.grant.folder]
        # A daemon that was killed before it could write the runner's file left it running. A
        # second one would find the folder locked and end, and be taken for the job's.
        pid = processes.running(arguments)
        if pid is None:
            pid = self._start(spec, arguments)
        else:
            self._log.info("job {job_id}: its runner was found running", job_id=spec.job_id)
        ticks = processes.start_ticks(pid)
        process = _Process(
            job_id=spec.job_id,
            attempt=spec.attempt,
            pid=pid,
            start_ticks=-1 if ticks is None else ticks,
            folder=spec.grant.folder,
            stop_grace_s=spec.stop_grace_s,
        )
        self._save(process)

    def _start(self, spec: ContainerSpec, arguments: list[str]) -> int:
        try:
            with open(self._log_path(spec.job_id), "wb") as log:
                child = subprocess.Popen(
                    [str(self._runner_python), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=spec.grant.folder,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            if error.errno in _FULL:  # waited for, within the bound of a launch
                raise Unavailable(
                    f"the runner can't be started yet: {error.strerror}", job_id=spec.job_id
                ) from error
            raise CumulusError(
                "the runner process could not be started",
                job_id=spec.job_id,
                details={"platform": str(error)},
                hint=f"can {self._runner_python} be run?",
            ) from error
        self._children[spec.job_id] = child
        return child.pid

    async def containers(self) -> Mapping[str, Container]:
        """Every launched runner that was not removed yet."""
        found: dict[str, Container] = {}
        names = {path.stem for path in self._root.glob("*.json")} | set(self._unsaved)
        for job_id in sorted(names):
            process = self._load(job_id)
            if process is None:
                continue
            alive = self._alive(process)
            exit_code = self._exit_codes.get(process.job_id)
            found[process.job_id] = Container(
                job_id=process.job_id,
                attempt=process.attempt,
                node_id=NODE_ID,
                alive=alive,
                exit_code=exit_code,
                message="" if alive or exit_code is None else _words(exit_code),
            )
        return found

    async def disagreements(self, held: Mapping[str, Sequence[Holding]]) -> Sequence[Disagreement]:
        """None: it reserves nothing beside the ledger."""
        return ()

    async def container(self, job_id: str, attempt: int) -> Container | None:
        """That attempt's alone."""
        found = (await self.containers()).get(job_id)
        return found if found is not None and found.attempt == attempt else None

    async def all_containers(self) -> Sequence[Container]:
        """The same: a job's attempts follow one another, and each has the folder to itself."""
        return list((await self.containers()).values())

    async def stop(self, job_id: str, attempt: int) -> None:
        """TERM to the runner; after its grace KILL to all that hold the folder's lock."""
        process = self._load(job_id)
        if process is None or process.attempt != attempt or job_id in self._ending:
            return
        ending = self._tasks.start(self._end(process), "ending a runner", job_id=job_id)
        if not ending.called:
            self._ending[job_id] = ending

            def ended(_: object) -> None:
                # Nothing is returned: a Deferred can't be its own result.
                self._ending.pop(job_id, None)

            ending.addBoth(ended)

    async def remove(self, job_id: str, attempt: int) -> None:
        """Forgets the runner. Raises Unavailable while it is alive."""
        process = self._load(job_id)
        if process is not None and process.attempt != attempt:
            return
        if process is not None and self._alive(process):
            raise Unavailable(f"the runner of job {job_id} is still alive", job_id=job_id)
        self._unsaved.pop(job_id, None)
        self._path(job_id).unlink(missing_ok=True)
        self._log_path(job_id).unlink(missing_ok=True)
        self._children.pop(job_id, None)
        self._exit_codes.pop(job_id, None)

    async def remove_ended(self, job_id: str, attempt: int) -> bool:
        """Forgets the runner, unless it is alive."""
        process = self._load(job_id)
        if process is not None and process.attempt == attempt and self._alive(process):
            return False
        await self.remove(job_id, attempt)
        return True

    async def explain(self, job_id: str, attempt: int) -> str:
        """The end of what the runner itself wrote."""
        try:
            data = self._log_path(job_id).read_bytes()
        except FileNotFoundError:
            return ""
        return data[-_EXPLAIN_BYTES:].decode(errors="replace").strip()

    async def close(self) -> None:
        """Ends waits; the runners go on by themselves and are found again at the next start."""
        await self._tasks.stop()

    # -- inside

    def _alive(self, process: _Process) -> bool:
        child = self._children.get(process.job_id)
        if child is not None:
            exit_code = child.poll()
            if exit_code is None:
                return True
            self._exit_codes[process.job_id] = exit_code
            return False
        return processes.start_ticks(process.pid) == process.start_ticks

    async def _end(self, process: _Process) -> None:
        if self._alive(process):
            processes.send(process.pid, signal.SIGTERM)
        kill_at = self._clock.seconds() + process.stop_grace_s + 1.0
        while self._alive(process) and self._clock.seconds() < kill_at:
            await sleep(self._clock, 0.05)
        lock = Path(process.folder) / folder.LOCK
        for _ in range(50):
            holding = processes.holders(lock)
            if self._alive(process):
                holding.append(process.pid)
            if not holding:
                return
            for pid in holding:
                processes.send(pid, signal.SIGKILL)
            await sleep(self._clock, 0.05)
        self._log.error(
            "job {job_id}: processes {pids} don't end", job_id=process.job_id, pids=holding
        )

    def _path(self, job_id: str) -> Path:
        if os.sep in job_id or job_id.startswith("."):
            raise NotFound(f"no such job: {job_id!r}")
        return self._root / f"{job_id}.json"

    def _log_path(self, job_id: str) -> Path:
        return self._path(job_id).with_suffix(".log")

    def _save(self, process: _Process) -> None:
        """Raises Unavailable while the disk doesn't take it; till then it is known here only."""
        path = self._path(process.job_id)
        draft = path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(attrs.asdict(process)))
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            if process.job_id not in self._unsaved:  # told once a job
                self._log.error(
                    "job {job_id}: its runner runs, but {path} can't be written yet: {error}",
                    job_id=process.job_id,
                    path=str(path),
                    error=error,
                )
            self._unsaved[process.job_id] = process
            raise Unavailable(
                f"the runner runs, but its file can't be written: {error.strerror}",
                job_id=process.job_id,
                hint=f"make room on the disk of {self._root}",
            ) from error
        self._unsaved.pop(process.job_id, None)

    def _load(self, job_id: str) -> _Process | None:
        unsaved = self._unsaved.get(job_id)
        if unsaved is not None:
            return unsaved
        try:
            return _Process(**json.loads(self._path(job_id).read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise Unavailable(
                f"{self._path(job_id)} can't be read: {error}",
                job_id=job_id,
                hint="remove the file once no process of that job is left",
            ) from error


def _words(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
