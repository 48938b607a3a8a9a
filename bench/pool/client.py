"""Asks a daemon with a simulated pool, by the lean client of the router's benchmark."""

import hashlib
import itertools
import time
from typing import Any

from bench.parts.errors import BenchError
from bench.routing.peers import CALL, ERROR, Codec, Loop, Peer
from tests.pool.agents import RUN_S

PACKAGE = b"PK\x05\x06" + bytes(18)  # a zip that holds nothing
WINDOW = 64  #: submits under way at a time, where their rate counts


class PoolClient:
    """One session of an admin's."""

    def __init__(self, port: int, token: str) -> None:
        self._loop = Loop()
        self._codec = Codec("cbor")
        self._peer = Peer(self._loop, port, self._codec, ticket=token)
        self._answers: dict[int, Any] = {}
        self._peer.on_message = self._heard
        self._numbers = itertools.count()
        sha256 = hashlib.sha256(PACKAGE).hexdigest()
        self._package = {"sha256": sha256, "size_bytes": len(PACKAGE)}
        if not self.call("cumulus.package.check", **self._package)["present"]:
            self.call("cumulus.package.put", sha256=sha256, offset=0, data=PACKAGE)
            self.call("cumulus.package.commit", **self._package)

    def close(self) -> None:
        self._peer.close()

    def call(self, uri: str, **kwargs: Any) -> dict[str, Any]:
        """The answer's keyword arguments. Raises BenchError."""
        return self._wait(self._begin(uri, kwargs))

    def submit_many(self, count: int, run_s: float, share: float) -> None:
        """So many jobs, as fast as they are taken."""
        waiting: list[int] = []
        for _ in range(count):
            waiting.append(self._begin("cumulus.job.submit", self._job(run_s, share)))
            if len(waiting) >= WINDOW:
                self._wait(waiting.pop(0))
        for request in waiting:
            self._wait(request)

    def submits(self, count: int, share: float) -> list[float]:
        """How long each took until it was durable, one after the other; they run for a second."""
        return [self._timed("cumulus.job.submit", **self._job(1.0, share)) for _ in range(count)]

    def lists(self, count: int, **kwargs: Any) -> list[float]:
        return [self._timed("cumulus.job.list", **kwargs) for _ in range(max(1, count))]

    def searches(self, count: int) -> list[float]:
        return [self._timed("cumulus.job.search", limit=50) for _ in range(max(1, count))]

    # -- inside

    def _job(self, run_s: float, share: float) -> dict[str, Any]:
        spec = {
            "package": self._package,
            "gpu_memory": share,
            "duration_s": 86_400.0,
            "name": f"job {next(self._numbers)}",
            "environment": {RUN_S: str(run_s)},
        }
        return {"spec": spec, "follow": False}

    def _timed(self, uri: str, **kwargs: Any) -> float:
        begun = time.perf_counter()
        self.call(uri, **kwargs)
        return time.perf_counter() - begun

    def _begin(self, uri: str, kwargs: dict[str, Any]) -> int:
        request = self._peer.next_request()
        self._peer.send([CALL, request, {}, uri, [], kwargs])
        return request

    def _wait(self, request: int) -> dict[str, Any]:
        self._loop.run_until(lambda: request in self._answers)
        answer = self._answers.pop(request)
        if answer[0] == ERROR:
            raise BenchError(f"refused: {answer!r:.500}")
        return dict(answer[4]) if len(answer) > 4 else {}

    def _heard(self, payload: bytes) -> None:
        message = self._codec.loads(payload)
        self._answers[message[2] if message[0] == ERROR else message[1]] = message
