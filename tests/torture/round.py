"""One round: jobs in, faults over them, and what is seen when all has settled."""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from cumulus_client._core import ClientCore
from cumulus_client._job_stream import Ended, JobStream, Journal
from cumulus_client._options import make_spec
from cumulus_client.connection import Connection
from cumulus_client.exceptions import (
    ConnectionFailed,
    CumulusError,
    NotFound,
    NoWorkersAvailable,
    Unavailable,
)
from cumulus_client.packaging import package_function
from cumulus_wire import uris
from cumulus_wire.journal import Record
from tests.engine.swarm_daemon import TOKENS
from tests.torture import copies, work
from tests.torture.finding import Finding
from tests.torture.oracle import judge, readable
from tests.torture.plan import Fault, Job, Round, Strike
from tests.torture.seen import Copy, Seen
from tests.torture.stage import Client, Say, Stage, summary

#: How long jobs and faults may take, and everything to settle behind them.
ROUND_S = 240.0
SETTLE_S = 150.0
READERS_END_S = 60.0
#: How long a request is repeated while the daemon is away.
PATIENCE_S = 120.0
BLINDING = {Fault.DAEMON_KILL, Fault.MANAGER_RESTART}
MANNERS = ("follow", "stall", "reattach")


class RoundResult:
    """What a round adds to the totals."""

    def __init__(self) -> None:
        self.jobs = 0
        self.faults = 0
        self.kinds: list[str] = []
        self.attempts = 0  #: that followed a first one
        self.touched = 0  #: jobs that a fault of the worker's side hit
        self.ends: Counter[str] = Counter()
        self.findings: list[Finding] = []


class RoundRun:
    """Runs one `Round` on a `Stage`."""

    def __init__(self, stage: Stage, plan: Round, folder: Path, say: Say, keep: Path) -> None:
        """`folder`: for the readers' copies. `keep`: where evidence of what is wrong goes."""
        self._stage = stage
        self._plan = plan
        self._folder = folder
        self._say = say
        self._keep = keep
        self._chance = random.Random(f"readers {plan.number} {plan.jobs[0].seed}")
        self._connection = Connection(stage.daemon.url, TOKENS["client"])
        self._core = ClientCore(self._connection, allow_pickle=False)
        self._ids: dict[int, str] = {}  #: job's number -> its id
        self._result = RoundResult()
        #: The first is never harmed; the second is stopped and killed.
        self._clients = [Client(name, folder, stage.daemon.url) for name in ("calm", "harmed")]
        self._began_at = 0.0

    async def run(self) -> RoundResult:
        """All of it. Raises StageError when the system doesn't come back."""
        stage = self._stage
        stage.on_disk.clear()
        stage.windows.clear()
        stage.runner_targets.clear()
        stage.blinded = not BLINDING.isdisjoint(strike.fault for strike in self._plan.strikes)
        stage.victims[:] = [self._clients[1]]
        self._began_at = time.monotonic()
        try:
            for client in self._clients:
                await client.start()
            async with asyncio.timeout(ROUND_S), asyncio.TaskGroup() as tasks:
                for job in self._plan.jobs:
                    tasks.create_task(self._submit(job))
                for strike in self._plan.strikes:
                    tasks.create_task(self._strike(strike))
            leaks = await self._settle()
            await stage.wait_usable()
            await self._check(leaks)
        finally:
            for client in self._clients:
                await client.kill()
            await self._connection.close()
        return self._result

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began_at + at_s - time.monotonic()))

    # --- doing ------------------------------------------------------------------------------------

    async def _submit(self, job: Job) -> None:
        await self._until(job.at_s)
        package = package_function(work.work, job.arguments)
        options = make_spec(
            gpu_memory=job.gpu_memory,
            duration=job.duration_s,
            name=job.name,
            retries=job.retries,
        )
        spec = {
            **options,
            "package": {"sha256": package.sha256, "size_bytes": package.size_bytes},
            "idempotency_key": uuid.uuid4().hex,
        }

        async def submit() -> dict[str, Any]:
            await self._core._uploads.ensure(package)
            return await self._connection.call(uris.JOB_SUBMIT, {"spec": spec, "follow": False})

        # One of the readers submits it too, if it is lucky first: it is one job all the same.
        for client in self._clients:
            if client is self._clients[1] and self._chance.random() < 0.4:
                await self._surely(lambda: self._core._uploads.ensure(package))
                self._follow(client, job, {"spec": spec})
        answer = await self._surely(submit)
        job_id = self._ids[job.number] = str(answer["job"]["job_id"])
        self._result.jobs += 1
        for client in self._clients:
            if job.name not in client.follows:
                self._follow(client, job, {"job_id": job_id})
        if job.cancel is None:
            self._stage.runner_targets.add(job_id)
        else:
            await self._cancel(job, job_id)

    def _follow(self, client: Client, job: Job, how: Mapping[str, Any]) -> None:
        order = {
            "name": job.name,
            "manner": self._chance.choice(MANNERS),
            "chance": self._chance.random(),
        }
        client.follow(job.name, json.dumps({**order, **how}).encode())

    async def _cancel(self, job: Job, job_id: str) -> None:
        """Cancels it once it has come to the state that the plan says, or is beyond it."""
        order = ["pending", "starting", "running"]
        while True:
            view = await self._surely(lambda: self._core.job(job_id))
            if view["status"] not in order:
                return  # it has ended
            if order.index(view["status"]) >= order.index(str(job.cancel)):
                break
            await asyncio.sleep(0.05)
        if job.cancel != "starting":
            await asyncio.sleep(self._chance.uniform(1.0, 5.0))
        await self._surely(lambda: self._core.cancel(job_id))

    async def _surely(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Its answer, also when the daemon or the workers are away for a while."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except (ConnectionFailed, Unavailable, NoWorkersAvailable) as error:
                if time.monotonic() > deadline:
                    raise
                self._say(f"repeating a request: {error}")
            await asyncio.sleep(0.5)

    async def _strike(self, strike: Strike) -> None:
        await self._until(strike.at_s)
        self._say(f"{self._elapsed()} {strike.fault} ({strike.worker}, {strike.lasts_s:.1f} s)")
        if await self._stage.strike(strike):
            self._result.faults += 1
            self._result.kinds.append(strike.fault.value)
            self._say(f"{self._elapsed()} {strike.fault} is over")
        else:
            self._say(f"{self._elapsed()} {strike.fault}: nothing to strike")

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began_at:5.1f} s"

    # --- settling ---------------------------------------------------------------------------------

    async def _settle(self) -> dict[str, list[str]]:
        """Waits until all jobs have ended and nothing of them is left: what is left after all."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            views = await self._views()
            active = [view for view in views.values() if view["phase"] != "ended"]
            left = await asyncio.to_thread(self._stage.leftovers)
            if (not active and not any(left.values())) or time.monotonic() > deadline:
                self._say(f"{self._elapsed()} settled")
                return left
            await asyncio.sleep(0.3)

    async def _views(self) -> dict[str, dict[str, Any]]:
        listed = await self._surely(lambda: self._core.jobs(active=False, limit=10_000))
        names = {job.name for job in self._plan.jobs}
        since = time.time() - (time.monotonic() - self._began_at) - 1.0
        return {
            view["job_id"]: view
            for view in listed
            if view["name"] in names and view["created_at"] >= since
        }

    # --- checking ---------------------------------------------------------------------------------

    async def _check(self, leaks: Mapping[str, list[str]]) -> None:
        views = await self._views()
        for client in self._clients:
            code = await client.finish(READERS_END_S)
            if code != 0:
                self._say(f"reader {client.name} left with {code}: {client.last_words()}")
        for job in self._plan.jobs:
            job_id = self._ids[job.number]
            seen = await self._see(job, job_id, views.pop(job_id, None))
            self._report(judge(seen), seen)
            self._result.attempts += len((seen.view or {}).get("attempts", ()))
            self._result.touched += bool(seen.windows)
            end = (seen.view or {}).get("end") or {}
            self._result.ends[str(end.get("reason") or (seen.view or {}).get("status"))] += 1
        for job_id, view in views.items():
            text = f"a job that nobody submitted: {view['name']} {view['status']}"
            self._report([Finding(counter="wrong_ends", amount=1, text=text, job_id=job_id)])
        for counter, left in leaks.items():
            text = "; ".join(left)
            if left:
                self._report([Finding(counter=counter, amount=len(left), text=text)])

    async def _see(self, job: Job, job_id: str, view: Mapping[str, Any] | None) -> Seen:
        records: list[Record] = []
        if view is not None and view.get("end") is not None:
            view = await self._surely(lambda: self._core.job(job_id))  # listings say less
            records = await self._read(job_id)
        return Seen(
            job=job,
            job_id=job_id,
            view=view,
            records=records,
            copies=[self._copy(client, job) for client in self._clients],
            windows=[w for w in self._stage.windows if view is not None and w.touches(view)],
            on_disk=self._stage.on_disk.get(job_id, []),
        )

    async def _read(self, job_id: str) -> list[Record]:
        """The daemon's journal of an ended job, whole."""
        stream = JobStream(self._connection, job_id=job_id)
        records: list[Record] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (event := await stream.next()) is not None:
                    if isinstance(event, Journal):
                        records += event.records
                    elif isinstance(event, Ended):
                        break
        except (NotFound, CumulusError) as error:
            self._say(f"the journal of {job_id} can't be read: {error}")
        finally:
            await stream.close()
        return records

    def _copy(self, client: Client, job: Job) -> Copy:
        end, error = client.folder / f"{job.name}.end.json", client.folder / f"{job.name}.error"
        return Copy(
            reader=client.name,
            records=copies.load(client.folder / f"{job.name}.copy"),
            end=json.loads(end.read_text()) if end.exists() else None,
            error=error.read_text() if error.exists() else None,
        )

    def _report(self, findings: list[Finding], seen: Seen | None = None) -> None:
        self._result.findings += findings
        for finding in findings:
            who = f" job {finding.job_id}" if finding.job_id else ""
            self._say(f"WRONG round {self._plan.number}{who}: {finding.counter}: {finding.text}")
        if findings and seen is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            evidence = {
                "findings": [finding.text for finding in findings],
                "view": seen.view,
                "on_disk": [repr(disk) for disk in seen.on_disk],
                "windows": summary(self._stage.windows),
                "journal": readable(seen.records).splitlines(),
                "daemon": self._stage.log_of(seen.job_id, 200).splitlines(),
            }
            path = self._keep / f"{seen.job.name}-{seen.job_id}.json"
            path.write_text(json.dumps(evidence, indent=2, default=str))
            self._say(f"evidence: {path}\n{self._stage.log_of(seen.job_id)}")
