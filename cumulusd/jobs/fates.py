"""What befell the workers while jobs ran on them, as the platform's nodes told it. No I/O."""

from collections.abc import Iterable

from cumulusd.jobs.model import Fate, JobRecord, Phase
from cumulusd.jobs.ports import Node

_ON_A_WORKER = (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING)


class Fates:
    """Knows for each attempt, as long as it runs, what was seen of its worker: what stands in its
    record, and what is on the way there."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], Fate] = {}

    def saw(
        self, nodes: Iterable[Node], placed: Iterable[JobRecord]
    ) -> list[tuple[JobRecord, Fate]]:
        """A look at the nodes; `placed` are the jobs that may be on them. Gives those whose record
        doesn't say all that was seen."""
        by_id = {node.node_id: node for node in nodes}
        seen: dict[tuple[str, int], Fate] = {}
        news = []
        for record in placed:
            if record.phase not in _ON_A_WORKER or record.placement is None:
                continue
            fate = self.of(record)
            node = by_id.get(record.placement.node_id)
            if node is not None:
                now = Fate(drained=node.availability == "drain", down=node.state == "down")
                fate = fate | now
            if fate != Fate():
                seen[record.job_id, record.attempt] = fate
            if fate != record.fate:
                news.append((record, fate))
        self._seen = seen
        return news

    def of(self, record: JobRecord) -> Fate:
        """Of the worker that this attempt is on."""
        return record.fate | self._seen.get((record.job_id, record.attempt), Fate())
