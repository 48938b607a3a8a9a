"""The Workers port: agents asked over WAMP through a call function that is handed in."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cumulus_wire import uris
from cumulus_wire.link import SLOWEST_PACKAGE_BYTES_PER_S
from cumulus_wire.variables import is_protected
from cumulusd.errors import CumulusError, InsufficientResources, NotFound
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import Grant, JobRecord, Placement
from cumulusd.jobs.ports import (
    AgentView,
    Clock,
    Holding,
    Inventory,
    Kept,
    Released,
)
from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most
from cumulusd.workers.agent_answers import (
    backend_of,
    devices_of,
    grant_of,
    holding_of,
    optional_text,
)
from cumulusd.workers.shares import Share, shares

#: `call(uri, kwargs, timeout_s)`: one procedure of one agent; raises CumulusError.
Call = Callable[[str, Mapping[str, Any], float], Awaitable[dict[str, Any]]]


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long an agent may take to answer."""

    prepare_s: float = 300.0  #: it fetches the package meanwhile; longer for large ones
    release_s: float = 30.0
    ask_s: float = 15.0
    refresh_s: float = 10.0  #: how often a present agent is asked for its devices again
    #: The same for one that holds no share, and tells nothing new: with the next job it tells all.
    refresh_idle_s: float = 30.0
    refresh_idle_max_s: float = 120.0  #: up to which that grows while all stays as it is
    refresh_faulty_s: float = 5.0  #: the same for one with which something is wrong


class AgentWorkers:
    """Every agent that has registered all its procedures, and what they answer."""

    _log = Logger()

    def __init__(
        self,
        call: Call,
        clock: Clock,
        *,
        environment: Mapping[str, str],
        installer_environment: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        secrets: Callable[[str], Awaitable[Mapping[str, str]]] | None = None,
        hidden_environment: Callable[[Iterable[str]], Mapping[str, str]] | None = None,
    ) -> None:
        """`environment` is set in every job, under what its submitter sets;
        `installer_environment` is for uv, over the agent's own.

        `secrets(job id)`: the values of a job's secrets. `hidden_environment(names)`: as
        `environment`, for a job that itself sets variables of these names, but on the way of the
        secrets: for variables of the operator's that must not be seen, such as credentials.
        Neither is ever in a file that outlives the start of the code, in a log, or in what a
        platform keeps of a job."""
        self._call = call
        self._clock = clock
        self._environment = dict(environment)
        self._installer_environment = dict(installer_environment or {})
        self._timeouts = timeouts or Timeouts()
        self._secrets = secrets
        self._hidden_environment = hidden_environment or (lambda names: {})
        self._verbs: dict[str, set[str]] = {}
        self._agents: dict[str, AgentView] = {}
        self._shares: dict[str, tuple[Share, ...]] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._greetings: dict[str, Deferred[Any]] = {}
        self._used: dict[str, Signal] = {}  #: of workers that rest: a job was prepared there
        self._tasks = Tasks()

    def registration_changed(self, uri: str, callee: Principal, registered: bool) -> None:
        """The router says that an agent's procedure came or went."""
        node_id = callee.node_id
        if callee.role is not Role.AGENT or node_id is None:
            return
        verb = uri.rpartition(".")[2]
        if verb not in uris.AGENT_VERBS:
            return
        verbs = self._verbs.setdefault(node_id, set())
        if registered:
            verbs.add(verb)
            if verbs.issuperset(uris.AGENT_VERBS):
                self._greet(node_id)
            return
        verbs.discard(verb)
        self._cancel_greeting(node_id)
        self._shares.pop(node_id, None)
        if self._agents.pop(node_id, None) is not None:
            self._log.warn("agent {node_id} is away", node_id=node_id)
            self._changed(node_id)

    async def stop(self) -> None:
        """Ends what is under way."""
        await self._tasks.stop()

    # -- the Workers port

    def agents(self) -> Mapping[str, AgentView]:
        """The agents connected now, with the free shares last heard of."""
        return self._agents

    def partitions(self, node_id: str) -> list[dict[str, Any]]:
        """Those of that worker as last heard of, with what is left of their time now."""
        now_s = self._clock.seconds()
        return [one.told(now_s) for one in self._shares.get(node_id, ())]

    def watch(self, changed: Callable[[str], None]) -> None:
        """`changed(node_id)` on every coming, going and change of shares."""
        self._watchers.append(changed)

    async def prepare(self, record: JobRecord, placement: Placement) -> Grant:
        """Fires when partition, folder and package are there."""
        try:
            answer = await self._ask_to_prepare(record, placement)
            if (rests := self._used.get(placement.node_id)) is not None:
                rests.fire()
        except InsufficientResources:
            # Our view of its shares was stale; with a fresh one the scheduler doesn't repeat this.
            await self._refresh(placement.node_id)
            raise
        try:
            return grant_of(answer["grant"])
        except (KeyError, TypeError, ValueError) as error:
            raise CumulusError(
                f"The agent of {placement.hostname} answered with a malformed grant: {error!r}",
                job_id=record.job_id,
                hint="are daemon and agent of the same version?",
            ) from error

    async def release(
        self, node_id: str, job_id: str, attempt: int, *, keep: bool = False
    ) -> Released:
        """Whether partition and folder are gone, and what is kept."""
        answer = await self._ask(
            node_id, "release", self._timeouts.release_s, job_id=job_id, attempt=attempt, keep=keep
        )
        kept = answer.get("kept")
        return Released(
            done=answer.get("released") is True,
            kept=None
            if kept is None
            else Kept(checkpoints=kept["checkpoints"] is True, files=kept["files"] is True),
        )

    async def stop_job(
        self, node_id: str, job_id: str, attempt: int, reason: str, grace_s: float
    ) -> bool:
        """True when a runner took the command."""
        answer = await self._ask(
            node_id,
            "command",
            self._timeouts.ask_s,
            job_id=job_id,
            attempt=attempt,
            command="stop",
            reason=reason,
            grace_s=grace_s,
        )
        return answer.get("taken") is True

    async def pause_job(self, node_id: str, job_id: str, attempt: int, wanted: bool) -> bool:
        """True when a runner took the command."""
        answer = await self._ask(
            node_id,
            "command",
            self._timeouts.ask_s,
            job_id=job_id,
            attempt=attempt,
            command="pause",
            wanted=wanted,
        )
        return answer.get("taken") is True

    async def folder(self, node_id: str, job_id: str, attempt: int) -> tuple[int, bool]:
        """The end of the attempt's journal on the worker, and whether its lock is free."""
        answer = await self._ask(node_id, "journals", self._timeouts.ask_s)
        for entry in answer.get("journals", ()):
            # 0: a folder that doesn't say of which attempt it is.
            if entry.get("job_id") == job_id and entry.get("attempt") in (attempt, 0):
                return int(entry["end"]), entry["lock_free"] is True
        raise NotFound(f"Worker {node_id} has no folder of job {job_id}", job_id=job_id)

    async def inventory(self, node_id: str) -> Inventory:
        """Every attempt of which the agent holds a folder or a partition."""
        jobs: set[tuple[str, int]] = set()
        kept: set[str] = set()
        holdings: list[Holding] = []
        for verb, key in (("journals", "journals"), ("partitions", "partitions")):
            answer = await self._ask(node_id, verb, self._timeouts.ask_s)
            kept.update(str(job_id) for job_id in answer.get("kept", ()))
            for entry in answer.get(key, ()):
                # 0: a folder that doesn't say of which attempt it is; any release clears it.
                jobs.add((str(entry["job_id"]), max(1, int(entry["attempt"]))))
                if verb == "partitions":
                    holdings.append(holding_of(node_id, entry))
        return Inventory(jobs=frozenset(jobs), holdings=tuple(holdings), kept=frozenset(kept))

    # -- inside

    async def _ask_to_prepare(self, record: JobRecord, placement: Placement) -> dict[str, Any]:
        spec = record.spec
        secrets = await self._hidden(record)
        shown = {**self._environment, **_harmless(spec.environment)}
        return await self._ask(
            placement.node_id,
            "prepare",
            self._timeouts.prepare_s + spec.package_size_bytes / SLOWEST_PACKAGE_BYTES_PER_S,
            job_id=record.job_id,
            attempt=record.attempt,
            journal_start=record.journal_start,
            owner=record.owner,
            device_id=placement.device_id,
            units=spec.units,
            setup_timeout_s=spec.setup_timeout_s,
            duration_s=record.duration_left_s,
            ran_s=record.ran_s,
            resumed=record.pauses > 0,
            needs_kept=record.needs_kept,
            package={"sha256": spec.package_sha256, "size_bytes": spec.package_size_bytes},
            requirements=list(spec.requirements),
            environment={name: shown[name] for name in shown if name not in secrets},
            # Only where there are some: an agent of before doesn't know them.
            **({"secrets": secrets} if secrets else {}),
            installer_environment=self._installer_environment,
            cpu_cores=spec.cpu_cores,
            memory_bytes=spec.memory_bytes,
        )

    async def _hidden(self, record: JobRecord) -> dict[str, str]:
        """The variables of the job's code that must not be seen. Raises CumulusError."""
        spec = record.spec
        own = (*self._environment, *spec.environment, *spec.secret_names)
        ours = self._hidden_environment(own)
        hidden = {name: ours[name] for name in ours if name not in spec.environment}
        if spec.secret_names and self._secrets is not None:
            values = await self._secrets(record.job_id)
            hidden.update(_harmless(values))
        return hidden

    async def _refresh(self, node_id: str) -> None:
        self._learn_answer(node_id, await self._ask(node_id, "devices", self._timeouts.ask_s))

    async def _ask(
        self, node_id: str, verb: str, timeout_s: float, **kwargs: Any
    ) -> dict[str, Any]:
        try:
            answer = await self._call(uris.agent_procedure(node_id, verb), kwargs, timeout_s)
        except CumulusError as error:
            error.job_id = error.job_id or kwargs.get("job_id")
            raise
        if "devices" in answer and verb != "devices" and node_id in self._agents:
            known = self._agents[node_id]
            devices = devices_of(answer["devices"])
            self._shares[node_id] = shares(answer["devices"], self._clock.seconds())
            self._learn(attrs.evolve(known, devices=devices))
            if {one.device_id for one in devices} != {one.device_id for one in known.devices}:
                self._greet(node_id)  # why they are others, only `devices` tells
        return answer

    def _learn(self, view: AgentView) -> None:
        if self._agents.get(view.node_id) != view:
            self._agents[view.node_id] = view
            self._changed(view.node_id)

    def _changed(self, node_id: str) -> None:
        for watcher in self._watchers:
            watcher(node_id)

    def _greet(self, node_id: str) -> None:
        """Asks a new agent for its devices, until it answers or goes."""
        self._cancel_greeting(node_id)
        self._greetings[node_id] = self._tasks.start(
            self._meet(node_id), "meeting an agent", node_id=node_id
        )

    async def _meet(self, node_id: str) -> None:
        """Learns an agent's devices, and keeps what is known of them fresh while it is present."""
        idle_s = self._timeouts.refresh_idle_s
        while True:
            pause_s = self._timeouts.refresh_s
            try:
                before = self._agents.get(node_id)
                answer = await self._ask(node_id, "devices", self._timeouts.ask_s)
                self._learn_answer(node_id, answer)
                view = self._agents[node_id]
                free = all(one.units_free == one.units_total for one in view.devices)
                if view == before and free and not self._shares[node_id]:
                    pause_s = max(pause_s, idle_s)
                    idle_s = min(2 * idle_s, self._timeouts.refresh_idle_max_s)
                else:
                    idle_s = self._timeouts.refresh_idle_s
            except CumulusError as error:
                # Whatever it is, it is asked again: the agent is connected, and would stay unused.
                self._log.warn(
                    "agent {node_id} does not tell its devices: {why}",
                    node_id=node_id,
                    why=error.message,
                )
                if node_id not in self._agents:
                    pause_s = 1.0
            known = self._agents.get(node_id)
            if known is not None and (known.fault or known.discovery_error):
                pause_s = min(pause_s, self._timeouts.refresh_faulty_s)
            await self._rest(node_id, pause_s)

    async def _rest(self, node_id: str, pause_s: float) -> None:
        """A pause that is longer than for a worker in use ends sooner with its next job."""
        longer_s = pause_s - self._timeouts.refresh_s
        if longer_s > 0:
            used = self._used.setdefault(node_id, Signal())
            await wait_at_most(self._clock, longer_s, used.wait())
            self._used.pop(node_id, None)
            pause_s = self._timeouts.refresh_s
        await sleep(self._clock, pause_s)

    def _learn_answer(self, node_id: str, answer: Mapping[str, Any]) -> None:
        view = AgentView(
            node_id=node_id,
            hostname=str(answer.get("hostname") or node_id),
            devices=devices_of(answer.get("devices", ())),
            discovery_error=optional_text(answer.get("discovery_error")),
            fault=optional_text(answer.get("fault")),
            backend=backend_of(answer.get("chronos") or {}),
            python_version=optional_text(answer.get("python_version")),
        )
        self._shares[node_id] = shares(answer.get("devices", ()), self._clock.seconds())
        known = self._agents.get(node_id)
        if view.fault != (None if known is None else known.fault):
            self._log.warn(
                "worker {hostname}: {fault}",
                node_id=node_id,
                hostname=view.hostname,
                fault="it takes jobs again" if view.fault is None else view.fault,
            )
        if known is None or len(known.devices) != len(view.devices):
            self._log.info(
                "agent {node_id} is present with {count} device(s)",
                node_id=node_id,
                count=len(view.devices),
                devices=[device.name for device in view.devices],
                discovery_error=view.discovery_error,
            )
        self._learn(view)

    def _cancel_greeting(self, node_id: str) -> None:
        self._used.pop(node_id, None)
        greeting = self._greetings.pop(node_id, None)
        if greeting is not None:
            greeting.cancel()


def _harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """Less what a job may not set: no submit takes it now, but a job from before may have it."""
    return {name: text for name, text in environment.items() if not is_protected(name)}
