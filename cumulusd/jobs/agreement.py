"""Whether jobs, ledgers and platform say the same of who holds which share."""

from collections.abc import Iterable, Mapping, Sequence

import attrs
from twisted.logger import Logger

from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Disagreement, Holding, Inventory

#: So many lines one comparison logs at most; all are shown with their workers.
MAX_TOLD = 10
_RUNNING = (Phase.STARTING, Phase.RUNNING)


def expected_of(
    inventories: Mapping[str, Inventory], placed: Iterable[JobRecord]
) -> dict[str, list[Holding]]:
    """By node, what the ledgers hold; those of attempts that run now are marked so."""
    running = {
        (record.placement.node_id, record.job_id, record.attempt)
        for record in placed
        if record.placement is not None and record.phase in _RUNNING
    }
    return {
        node_id: [
            attrs.evolve(one, runs=(node_id, one.job_id, one.attempt) in running)
            for one in inventory.holdings
        ]
        for node_id, inventory in inventories.items()
    }


def unbooked(
    inventories: Mapping[str, Inventory], placed: Iterable[JobRecord]
) -> list[Disagreement]:
    """Jobs that run on workers whose ledger holds nothing for them."""
    found = []
    for record in placed:
        placement = record.placement
        if placement is None or record.phase not in _RUNNING:
            continue
        inventory = inventories.get(placement.node_id)
        if inventory is None:
            continue
        if all(
            (one.job_id, one.attempt) != (record.job_id, record.attempt)
            for one in inventory.holdings
        ):
            found.append(
                Disagreement(
                    node_id=placement.node_id,
                    message=f"job {record.job_id} runs in attempt {record.attempt}, and the ledger "
                    "holds no partition for it",
                )
            )
    return found


class Agreement:
    """What differs for longer than a job takes to come or go: in two comparisons in a row."""

    _log = Logger()

    def __init__(self) -> None:
        self._last: frozenset[Disagreement] = frozenset()
        self.shown: tuple[Disagreement, ...] = ()

    def take(self, found: Sequence[Disagreement]) -> None:
        """Another comparison was made."""
        shown = tuple(one for one in dict.fromkeys(found) if one in self._last)
        new = [one for one in shown if one not in self.shown]
        for one in new[:MAX_TOLD]:
            self._log.error(
                "ledger and platform disagree on {node_id}: {why}",
                node_id=one.node_id,
                why=one.message,
            )
        if len(new) > MAX_TOLD:
            self._log.error("and {count} more that disagree", count=len(new) - MAX_TOLD)
        if self.shown and not shown:
            self._log.info("ledgers and platform agree again")
        self._last = frozenset(found)
        self.shown = shown
