"""What the workers' engines tell of themselves, for Prometheus: asked through their agents when
somebody scrapes, told from what is known by then. Nobody ever waits for a worker."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.logger import Logger

from cumulus_wire import engine_metrics, uris
from cumulus_wire.engine_metrics import FAMILIES, WORKER_LABEL, quoted
from cumulusd.errors import CumulusError
from cumulusd.identity import Principal, Role
from cumulusd.jobs.ports import Clock
from cumulusd.tasks import Tasks
from cumulusd.workers.workers import Call

#: A worker whose metrics are older is asked again at the next scrape.
FRESH_S = 10.0
#: Older ones are not told any more.
STALE_S = 120.0
ASK_S = 15.0
#: Agents that are asked at a time.
MAX_ASKED = 8
MAX_TEXT_CHARS = 512 << 10
MAX_WHY_CHARS = 300
_VERB = "metrics"
_AGE = "cumulus_worker_metrics_age_seconds"


@attrs.frozen(kw_only=True)
class _Told:
    """A worker's last answer."""

    at: float  #: by the clock
    samples: tuple[engine_metrics.Sample, ...] = ()
    why: str | None = None  #: there are none


class WorkerMetrics:
    """The page of all workers' engines. `stop` it."""

    _log = Logger()

    def __init__(
        self, call: Call, clock: Clock, labels: Callable[[], Mapping[str, str | None]]
    ) -> None:
        """`labels()`: node id -> how the worker is named; None: it has no series of its own."""
        self._call = call
        self._clock = clock
        self._labels = labels
        self._offering: set[str] = set()  #: nodes whose agents know the verb
        self._told: dict[str, _Told] = {}
        self._due: deque[str] = deque()
        self._asked: set[str] = set()
        self._asking = False
        self._tasks = Tasks()

    def registration_changed(self, uri: str, callee: Principal, registered: bool) -> None:
        """The router says that an agent's procedure came or went."""
        if callee.role is not Role.AGENT or callee.node_id is None:
            return
        if uri != uris.agent_procedure(callee.node_id, _VERB):
            return
        if registered:
            self._offering.add(callee.node_id)
        else:
            self._offering.discard(callee.node_id)
            self._told.pop(callee.node_id, None)

    async def stop(self) -> None:
        """Ends what is being asked."""
        self._due.clear()
        await self._tasks.stop()

    def text(self) -> bytes:
        """What is known now, in Prometheus's text format; who has aged is asked meanwhile."""
        labels = {node: label for node, label in self._labels().items() if label is not None}
        for node_id in self._told.keys() - labels.keys():
            del self._told[node_id]
        self._refresh(labels)
        comments, ages = [], []
        families: dict[str, list[str]] = {family: [] for family in FAMILIES}
        for node_id, label in sorted(labels.items(), key=lambda item: item[1]):
            told = self._told.get(node_id)
            why = self._why_none(node_id, told)
            if why is not None or told is None:
                comments.append(f"# worker {label} gives none: {why}")
                continue
            worker = f'{WORKER_LABEL}="{quoted(label)}"'
            ages.append(f"{_AGE}{{{worker}}} {self._clock.seconds() - told.at:.3f}")
            for sample in told.samples:
                families[sample.family].append(sample.line(worker))
        lines = comments
        if ages:
            lines += [
                f"# HELP {_AGE} How long ago the worker's engine told what is told here",
                f"# TYPE {_AGE} gauge",
                *ages,
            ]
        for family, found in families.items():
            if found:
                kind = FAMILIES[family]
                lines += [f"# HELP {family} Of the worker's engine", f"# TYPE {family} {kind}"]
                lines += found
        return "".join(f"{line}\n" for line in lines).encode()

    # -- inside

    def _why_none(self, node_id: str, told: _Told | None) -> str | None:
        if node_id not in self._offering:
            return "its agent is away, or of a version that tells none"
        if told is None:
            return "it is being asked: see the next scrape"
        if told.why is not None:
            return told.why
        age_s = self._clock.seconds() - told.at
        return None if age_s < STALE_S else f"it told them last {age_s:.0f} s ago"

    def _refresh(self, labels: Mapping[str, str]) -> None:
        now, waiting = self._clock.seconds(), set(self._due)
        for node_id in labels:
            told = self._told.get(node_id)
            fresh = told is not None and now - told.at < FRESH_S
            if fresh or node_id in waiting or node_id in self._asked:
                continue
            if node_id in self._offering:
                self._due.append(node_id)
        self._ask_more()

    def _ask_more(self) -> None:
        if self._asking:
            return  # one answered at once: the loop below goes on
        self._asking = True
        while self._due and len(self._asked) < MAX_ASKED:
            node_id = self._due.popleft()
            if node_id in self._offering:
                self._asked.add(node_id)
                task = self._tasks.start(self._ask(node_id), "asking for an engine's metrics")
                task.addBoth(self._answered, node_id)
        self._asking = False

    def _answered(self, result: object, node_id: str) -> None:
        self._asked.discard(node_id)
        self._ask_more()

    async def _ask(self, node_id: str) -> None:
        try:
            answer = await self._call(uris.agent_procedure(node_id, _VERB), {}, ASK_S)
        except CumulusError as error:
            before = self._told.get(node_id)
            if before is None or before.why is not None:
                self._keep(node_id, why=error.message)
            # Else what it told before stands until it is too old.
            self._log.debug(
                "{node_id} can't be asked for its engine's metrics: {why}",
                node_id=node_id,
                why=error.message,
            )
            return
        self._learn(node_id, answer)

    def _learn(self, node_id: str, answer: Mapping[str, Any]) -> None:
        text = answer.get("text")
        if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
            self._keep(node_id, why=str(answer.get("why") or "its agent's answer is none"))
            return
        samples = tuple(engine_metrics.samples(text.split("\n")))
        if samples:
            self._told[node_id] = _Told(at=self._clock.seconds(), samples=samples)
        else:
            self._keep(node_id, why="its agent's answer holds nothing of an engine")

    def _keep(self, node_id: str, *, why: str) -> None:
        shown = "".join(each if each.isprintable() else "?" for each in why[:MAX_WHY_CHARS])
        self._told[node_id] = _Told(at=self._clock.seconds(), why=shown)
