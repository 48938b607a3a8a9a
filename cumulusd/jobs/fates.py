"""What befell the workers while jobs ran on them, as the platform's nodes told it. No I/O."""

from collections.abc import Iterable

import attrs

from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Node

_ON_A_WORKER = (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING)


@attrs.frozen(kw_only=True)
class Fate:
    """What of it would end a job there."""

    drained: bool = False  #: its operator set it to drain
    down: bool = False  #: it was down or cut off; the platform ends what ran there when it is back


class Fates:
    """Remembers for each attempt, as long as it runs, what was seen of its worker."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], Fate] = {}

    def saw(self, nodes: Iterable[Node], placed: Iterable[JobRecord]) -> None:
        """A look at the nodes; `placed` are the jobs that may be on them."""
        by_id = {node.node_id: node for node in nodes}
        seen: dict[tuple[str, int], Fate] = {}
        for record in placed:
            if record.phase not in _ON_A_WORKER or record.placement is None:
                continue
            key = (record.job_id, record.attempt)
            fate = self._seen.get(key, Fate())
            node = by_id.get(record.placement.node_id)
            if node is not None:
                fate = Fate(
                    drained=fate.drained or node.availability == "drain",
                    down=fate.down or node.state == "down",
                )
            if fate != Fate():
                seen[key] = fate
        self._seen = seen

    def of(self, record: JobRecord) -> Fate:
        """Of the worker that this attempt is on."""
        return self._seen.get((record.job_id, record.attempt), Fate())
