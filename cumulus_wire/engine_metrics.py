"""What workers' Docker Engines tell of themselves, as daemon and agent hand it on: lines of
Prometheus's text format, of known families only, each checked as a whole."""

import re
from collections.abc import Iterable, Iterator

#: Family -> its type. What else an engine tells (of its storage, its Go runtime, its etcd) is
#: nobody's here, and would cost series for every worker.
FAMILIES = {
    "engine_daemon_container_actions_seconds": "histogram",
    "engine_daemon_container_states_containers": "gauge",
    "engine_daemon_engine_cpus_cpus": "gauge",
    "engine_daemon_engine_info": "gauge",
    "engine_daemon_engine_memory_bytes": "gauge",
    "engine_daemon_events_subscribers_total": "gauge",
    "engine_daemon_events_total": "counter",
    "engine_daemon_health_checks_failed_total": "counter",
    "engine_daemon_health_checks_total": "counter",
    "engine_daemon_image_actions_seconds": "histogram",
    "engine_daemon_network_actions_seconds": "histogram",
    "go_goroutines": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "swarm_manager_leader": "gauge",
    "swarm_manager_nodes": "gauge",
    "swarm_manager_tasks_total": "gauge",
    "swarm_node_info": "gauge",
    "swarm_node_manager": "gauge",
}

#: Where an engine tells them (`metrics-addr` of its daemon.json), unless something else is said.
DEFAULT_ADDRESS = "127.0.0.1:9323"
#: Of one engine, handed on.
MAX_LINES = 400
MAX_LINE_CHARS = 1024
#: Histograms name their buckets by it; the daemon names the worker by the other.
BUCKET_LABEL, WORKER_LABEL = "le", "worker"

_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
_LABEL = _NAME + r'="(?:[^"\\\n]|\\["\\n])*"'
_LABEL_NAMES = re.compile(rf"({_NAME})=" + r'"(?:[^"\\\n]|\\["\\n])*"')
_VALUE = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|Inf|NaN)"
#: Name, labels, value; a time is not handed on.
_SAMPLE = re.compile(
    rf"({_NAME})(?:\{{((?:{_LABEL}(?:,{_LABEL})*,?)?)\}})? ({_VALUE})(?: -?[0-9]+)?"
)


class Sample:
    """One line that may be handed on."""

    __slots__ = ("family", "labels", "name", "value")

    def __init__(self, family: str, name: str, labels: str, value: str) -> None:
        self.family = family
        self.name = name
        self.labels = labels  #: as between the braces, without a comma at the end
        self.value = value

    @property
    def series(self) -> str:
        """What tells it from others."""
        return f"{self.name} {sorted(each[0] for each in _LABEL_NAMES.finditer(self.labels))}"

    def line(self, *more: str) -> str:
        """The same again, with `more` labels (`name="value"`, escaped) ahead of its own."""
        labels = ",".join([*more, *([self.labels] if self.labels else [])])
        return f"{self.name}{{{labels}}} {self.value}" if labels else f"{self.name} {self.value}"


def read(line: str) -> Sample | None:
    """The sample in a line; None for what is none, or of no known family."""
    # Half a surrogate pair, say, is no UTF-8: it would take the page of all workers with it.
    if len(line) > MAX_LINE_CHARS or not line.isprintable():
        return None
    found = _SAMPLE.fullmatch(line)
    if found is None:
        return None
    name, labels, value = found[1], (found[2] or "").rstrip(","), found[3]
    names = [each[1] for each in _LABEL_NAMES.finditer(labels)]
    family = _family_of(name)
    if family is None or len(set(names)) != len(names):
        return None
    if any(each == WORKER_LABEL or each.startswith("__") for each in names):
        return None
    if (BUCKET_LABEL in names) != (name == f"{family}_bucket"):
        return None
    return Sample(family, name, labels, value)


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """Those that may be handed on: each series once, at most `MAX_LINES`."""
    seen: set[str] = set()
    for line in lines:
        sample = read(line)
        if sample is None or sample.series in seen:
            continue
        seen.add(sample.series)
        yield sample
        if len(seen) == MAX_LINES:
            return


def quoted(text: str) -> str:
    """A label's value as it stands between quotes."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _family_of(name: str) -> str | None:
    if FAMILIES.get(name, "histogram") != "histogram":
        return name
    family, _, part = name.rpartition("_")
    is_one = FAMILIES.get(family) == "histogram" and part in ("bucket", "sum", "count")
    return family if is_one else None
