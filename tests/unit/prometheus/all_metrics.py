"""Every metric there is, with its type and labels, from a registry in which all has happened."""

import re
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.engine_metrics import FAMILIES
from cumulus_wire.states import JobState
from cumulusd.jobs.timeline import Span
from cumulusd.metrics import TIMED_STAGES, Metrics
from cumulusd.metrics_labels import DeviceShare
from cumulusd.metrics_snapshot import (
    WORKER_STATES,
    JobsShare,
    MetricsSnapshot,
    PoolShare,
    RouterShare,
)
from cumulusd.protocol.tallies import REFUSALS


@attrs.frozen
class Known:
    """A metric as it is asked for: a counter with `_total`, a histogram without its parts."""

    name: str
    type: str
    labels: frozenset[str]
    values: dict[str, set[str]]  #: of its labels, in this registry
    help: str

    @property
    def series(self) -> set[str]:
        """The names of its series."""
        if self.type == "histogram":
            return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}
        return {self.name}


def _snapshot() -> MetricsSnapshot:
    return MetricsSnapshot(
        jobs=JobsShare(
            by_state={state.value: 1 for state in JobState},
            waiting={reason.value: 1 for reason in WaitReason},
            partitions={"mig": 1},
        ),
        pool=PoolShare(
            by_state=dict.fromkeys(WORKER_STATES, 1),
            devices=(
                DeviceShare(
                    worker="gpu1",
                    device="0",
                    units_total=1,
                    units_free=1,
                    memory_bytes=1,
                    memory_bytes_in_use=0,
                ),
            ),
            disagreements={"gpu1": 0},
        ),
        router=RouterShare(
            sessions_by_role={"client": 1},
            refusals=dict.fromkeys(REFUSALS, 0),
            messages={"in": 1, "out": 1},
            bytes={"in": 1, "out": 1},
        ),
        parts={"store": "ok"},
        certificates={"ssl:443": 1.0},
    )


def daemons_own() -> dict[str, Known]:
    """Those of /metrics, by name; without the times at which counters began."""
    metrics = Metrics(_snapshot)
    metrics.job_submitted()
    metrics.submit_refused("too_many")
    for reason in (None, *EndReason):
        state = JobState.COMPLETED if reason is None else JobState.FAILED
        metrics.job_ended(state, reason, 1.0)
    for stage in TIMED_STAGES:
        metrics.stage_over(Span(stage=stage, seconds=1.0))
    for status in ("2xx", "4xx", "5xx", "none"):
        metrics.engine_asked("nodes", status, 0.1)
    metrics.store_committed(0.1)
    metrics.loop_lagged(0.1)
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if not family.name.endswith("_created"):
            known = _known(family)
            found[known.name] = known
    return found


def _known(family: Any) -> Known:
    values: dict[str, set[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            values.setdefault(label, set()).add(value)
    name = family.name
    if family.type == "counter":
        (name,) = {sample.name for sample in family.samples if not sample.name.endswith("_created")}
    return Known(
        name=name,
        type=family.type,
        labels=frozenset(values.keys() - {"le"}),
        values=values,
        help=family.documentation,
    )


def workers_own() -> dict[str, Known]:
    """Those of /metrics/workers; the engines' own labels are Docker's matter."""
    engines = {"state", "action", "reason", "function", "version", "node_id", "swarm_id"}
    found = {
        name: Known(name, kind, frozenset({"worker", *engines}), {}, "")
        for name, kind in FAMILIES.items()
    }
    age = "cumulus_worker_metrics_age_seconds"
    return {**found, age: Known(age, "gauge", frozenset({"worker"}), {}, "")}


#: Of every series, by Prometheus itself.
_ALWAYS = {"instance", "job", "le"}
_SELECTED = re.compile(
    r"\b((?:cumulus|cumulusd|engine_daemon|process|swarm|go)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?"
)
_MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_BY = re.compile(r"\bby\s*\(([^)]*)\)")


def faults(expression: str) -> list[str]:
    """Metrics, labels and labels' values in a PromQL expression that there are none of."""
    everything = {**daemons_own(), **workers_own()}
    by_series = {series: known for known in everything.values() for series in known.series}
    wrong, labels = [], set(_ALWAYS)
    for name, selector in _SELECTED.findall(expression):
        if name == "up":
            continue
        known = by_series.get(name)
        if known is None:
            wrong.append(f"no metric {name}")
            continue
        labels |= known.labels
        for label, operator, value in _MATCHER.findall(selector):
            if label not in known.labels | _ALWAYS:
                wrong.append(f"{name} has no label {label}")
            there = known.values.get(label)
            if there is not None and label != "le" and "$" not in value:
                wanted = value.split("|") if "~" in operator else [value]
                wrong += [f"{name}: no {label} {one}" for one in wanted if one not in there]
    for group in _BY.findall(expression):
        wrong += [
            f"no label {one}" for one in re.split(r"[\s,]+", group.strip()) if one not in labels
        ]
    return wrong
