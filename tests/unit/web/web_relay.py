"""A relay in memory, for tests of HTTP: one job of ann's, and what is uploaded."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from cumulus_wire.journal import Kind, encode, encode_json
from cumulusd.errors import Conflict, CumulusError, InvalidArgument, NotFound, TooLarge
from cumulusd.identity import Authenticator, Principal, Role, hash_token

TOKENS = [
    (hash_token(name), Principal(name=name, owner=owner, role=role))
    for name, owner, role in (
        ("ann", "ann", Role.CLIENT),
        ("bob", "bob", Role.CLIENT),
        ("admin", "ops", Role.ADMIN),
        ("viewer", "ops", Role.VIEWER),
        ("agent", "cumulusd", Role.AGENT),
    )
]


def result_of(work: Awaitable[Any]) -> Any:
    """What a coroutine gives that waits for nothing; raises what it raises."""
    ended: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(ended.append)  # type: ignore[arg-type]
    (result,) = ended
    if isinstance(result, Failure):
        result.raiseException()
    return result


def authenticator(tokens: Any = TOKENS) -> Authenticator:
    return Authenticator(tokens)


@attrs.frozen
class Info:
    encoding: str
    size_bytes: int
    sha256: str = ""


class MemoryUpload:
    """What was uploaded; says so to its relay."""

    def __init__(self, jobs: "Jobs") -> None:
        self.jobs = jobs
        self.data = bytearray()
        self.discarded = False
        self.committed = False

    async def write(self, data: bytes | bytearray) -> None:
        assert not self.discarded
        if self.jobs.disk is not None:
            await self.jobs.disk()
        if len(self.data) + len(data) > self.jobs.package_max_bytes:
            raise TooLarge("the package is too large")
        self.data += data

    async def commit(self) -> tuple[str, int]:
        self.committed = True
        return hashlib.sha256(self.data).hexdigest(), len(self.data)

    def discard(self) -> None:
        self.discarded = True


class Jobs:
    """A relay with one job, job_1 of ann's."""

    parts: Mapping[str, str] = {"store": "ok", "platform": "ok"}
    broken = False
    package_max_bytes = 10 << 20

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.uploads: list[MemoryUpload] = []
        self.submitted: list[tuple[Any, Any, list[Mapping[str, str]]]] = []
        self.disk: Callable[[], Awaitable[None]] | None = None
        self.refusal: CumulusError | None = None
        self.encoding = "json"
        self.result = [b'{"a":', b"1}"]
        self.status = "completed"
        self.has_result = True
        self.frames = b"".join(
            (
                encode_json(Kind.STATUS, {"phase": "running"}, 0),
                encode(Kind.STDOUT, b"one\n", 1_000_000),
                encode(Kind.STDERR, b"\xff\n", 2_000_000),
                encode_json(Kind.PROGRESS, {"fraction": 0.5, "message": "half"}, 3_000_000),
                encode_json(Kind.EXIT, {"outcome": "completed"}, 4_000_000),
            )
        )

    def health(self) -> dict[str, str]:
        return dict(self.parts)

    def info(self, who: Principal) -> dict[str, Any]:
        return {"server_version": "1", "owner": who.owner}

    def workers(self, who: Principal) -> Any:
        return [{"hostname": "gpu1"}]

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        self.asked.append((who.name, active, limit))
        return [{"job_id": "job_1"}] if who.may_see("ann") else []

    def get(self, who: Principal, job_id: str) -> dict[str, Any]:
        if self.broken:
            raise ZeroDivisionError("secret detail")
        if job_id != "job_1" or not who.may_see("ann"):
            raise NotFound(f"There is no job {job_id}")
        return {
            "job_id": job_id,
            "status": self.status,
            "journal": {"start_offset": 0, "end_offset": len(self.frames)},
            "end": {"result": {} if self.has_result else None},
        }

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        self.get(who, job_id)
        return iter([b"one\n", b"\xff two"])

    def check_upload(self, who: Principal) -> None:
        if self.refusal is not None:
            raise self.refusal

    def receive(self, who: Principal) -> MemoryUpload:
        self.check_upload(who)
        self.uploads.append(MemoryUpload(self))
        return self.uploads[-1]

    async def submit_posted(
        self, who: Principal, spec_value: Any, job_id: Any, faults: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        self.submitted.append((spec_value, job_id, [*faults]))
        if faults:
            raise InvalidArgument("faulty", details={"faults": [*faults]})
        return {"job_id": job_id or "job_made", "status": "pending", "wait": {"message": "waits"}}

    async def follow(
        self,
        who: Principal,
        job_id: str,
        from_offset: int,
        sink: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        view = self.get(who, job_id)
        if from_offset > len(self.frames):
            why = {"continue_from": 0}
            raise InvalidArgument(f"{from_offset} is behind the end", details=why)
        await sink({"event": "state", "job": view})
        part = {"event": "journal", "offset": from_offset, "next_offset": len(self.frames)}
        await sink({**part, "frames": self.frames[from_offset:]})
        return {"event": "end", "job": view}

    def result_pieces(self, who: Principal, job_id: str) -> tuple[Info, Iterator[bytes]]:
        self.get(who, job_id)
        return Info(self.encoding, sum(map(len, self.result))), iter(self.result)

    def outputs(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        return {"outputs": [{"name": "a/b é.txt"}], "note": None}

    def output_pieces(self, who: Principal, job_id: str, name: str) -> tuple[Info, Iterator[bytes]]:
        self.get(who, job_id)
        if name != "a/b é.txt":
            raise NotFound(f"There is no output {name}")
        return Info("", 3, "abc"), iter([b"one"])

    def checkpoints(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        return {"checkpoints": [{"filename": "a.pt"}]}

    async def pause(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        return {"paused": True, "message": "asked"}

    async def resume(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        return {"resumed": True, "message": "queued"}

    async def delete(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        return {"deleted": True, "message": "gone"}

    async def cancel(self, who: Principal, job_id: str) -> dict[str, Any]:
        self.get(who, job_id)
        if self.status == "completed":
            raise Conflict("it has ended already")
        return {"cancelled": True, "message": "Job cancelled", "state": self.status}
