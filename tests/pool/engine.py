"""The pool's engine in a process of its own: `python -m tests.pool.engine FOLDER WORKERS DEVICES`.

In FOLDER: `engine.sock` is the Engine API; at `pool.sock` whoever connects hears what starts (one
JSON object a line, see `tests.pool.swarm`) and may say `{"t": "exit", "job_id", "attempt"}`, and
`{"t": "count"}`, which is answered with the requests so far and the bytes of JSON sent.
"""

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

from tests.contract.fake_swarm import Json
from tests.pool.swarm import PoolEngine, PoolSwarm


class Control(LineOnlyReceiver):
    """One who hears of what starts, and tells what ends."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    def connectionMade(self) -> None:
        self._pool.heard_by.append(self)

    def connectionLost(self, reason: Any = None) -> None:
        self._pool.heard_by.remove(self)

    def lineReceived(self, line: bytes) -> None:
        message = json.loads(line)
        if message["t"] == "exit":
            self._pool.swarm.end(message["job_id"], message["attempt"])
        elif message["t"] == "count":
            engine = self._pool.engine
            self.tell({"t": "count", "requests": engine.counts, "bytes": engine.sent_bytes})

    def tell(self, message: Json) -> None:
        self.sendLine(json.dumps(message).encode())


class Pool:
    """The Swarm, its engine, and who listens."""

    def __init__(self, reactor: Any, workers: int, devices: int) -> None:
        self.heard_by: list[Control] = []
        self.swarm = PoolSwarm(reactor, workers, devices, self._tell)
        self.engine = PoolEngine(self.swarm)

    def _tell(self, message: Json) -> None:
        for one in list(self.heard_by):
            one.tell(message)


async def serve(reactor: Any, folder: Path, workers: int, devices: int) -> None:
    """Until the process is ended."""
    pool = Pool(reactor, workers, devices)
    await UNIXServerEndpoint(reactor, str(folder / "pool.sock")).listen(
        Factory.forProtocol(lambda: Control(pool))  # type: ignore[no-untyped-call]
    )
    await pool.engine.listen(reactor, str(folder / "engine.sock"))
    ended: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: ended.called or ended.callback(None)
    )
    await ended
    await pool.engine.close()
    pool.swarm.close()


def main() -> None:
    """See the module."""
    folder, workers, devices = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, folder, workers, devices)))


if __name__ == "__main__":
    main()
