"""What the daemon does for its jobs, counted: nothing here measures time.

The simulation's clock is its own and its chances come from a seed, so the same code counts the
same on any machine. Counted is at the edges of the daemon, where each piece of work costs a
system call or a message: requests to the engine, calls to agents, transactions, fsyncs, and the
bytes of journals at each place they pass (link in, disk, disk again, reader). What is copied
between those is bounded by them, since each of these hands on whole buffers.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cumulusd.following import Following, Sink
from cumulusd.jobs import placing
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journal import Journal
from cumulusd.jobs.store import Store
from tests.sim import sim_machine
from tests.sim.sim_daemon import Daemon
from tests.sim.sim_swarm import ManagerApi


class Counts:
    """Counts from `install` on, in `of`."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Puts the counting in place, until the test's end."""
        for name in vars(ManagerApi):
            if not name.startswith("_") and name != "close":
                self._count(patch, ManagerApi, name, lambda *_, name=name: {f"engine {name}": 1})
        self._count(patch, Daemon, "call", _agent_call)
        self._count(patch, Store, "_commit", _commit)
        self._count(
            patch,
            sim_machine,
            "_sync_files",
            lambda folder, starts, names=True: {
                "fsyncs": len(starts),
                "folder fsyncs": 2 * names,
            },
        )
        self._count(
            patch,
            sim_machine,
            "_write_at",
            lambda fd, data, at: {"journal bytes written": len(data)},
        )
        self._count(patch, Intake, "received", _received)
        real_place, real_read = placing.scheduler.place, Journal.read
        real_follow = Following.follow

        def place(*args: Any) -> Any:
            decision = real_place(*args)
            self.of["scheduling passes"] += 1
            self.of["jobs looked at in passes"] += decision.looked_at
            return decision

        def read(journal: Journal, offset: int, max_bytes: int) -> Any:
            chunk = real_read(journal, offset, max_bytes)
            if not sys._getframe(1).f_globals["__name__"].startswith("tests."):  # the oracle
                self.of["journal reads"] += 1
                self.of["journal bytes read"] += len(chunk.data)
            return chunk

        async def follow(
            following: Following, who: Any, job_id: str, offset: int, sink: Sink, tail: Any = None
        ) -> Any:
            async def counting(part: Mapping[str, Any]) -> None:
                self.of[f"messages to readers: {part['event']}"] += 1
                await sink(part)

            return await real_follow(following, who, job_id, offset, counting, tail)

        patch.setattr(placing.scheduler, "place", place)
        patch.setattr(Journal, "read", read)
        patch.setattr(Following, "follow", follow)

    def _count(
        self,
        patch: pytest.MonkeyPatch,
        where: Any,
        name: str,
        counted: Callable[..., dict[str, int]],
    ) -> None:
        real = getattr(where, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.of.update(counted(*args, **kwargs))
            return real(*args, **kwargs)

        patch.setattr(where, name, counting)


def _agent_call(daemon: Daemon, uri: str, *rest: Any) -> dict[str, int]:
    return {f"agent {uri.rpartition('.')[2]}": 1}


def _commit(store: Store, changes: dict[str, Any]) -> dict[str, int]:
    return {"commits": 1, "records written": len(changes)} if changes else {"probes": 1}


def _received(
    intake: Intake, node_id: str, job_id: str, attempt: int, offset: int, data: bytes
) -> dict[str, int]:
    return {"link messages": 1, "journal bytes in": len(data)}
