"""A relay for the client's tests: the real router, jobs that are only journals. Own process.

Prints its port, serves until stdin closes. What a job does is said by the name it is submitted
under; `cumulus.server.info` tells how often each procedure was called.
"""

import hashlib
import json
import pickle
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from cumulus_wire import uris
from cumulus_wire.journal import Kind, encode, encode_json
from cumulusd.errors import Conflict, InvalidArgument, NotFound
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router

MESSAGE_BYTES = 256 * 1024
LINES = 2000


class Job:
    """A job whose journal is there from the start."""

    def __init__(self, job_id: str, name: str) -> None:
        self.job_id = job_id
        self.name = name
        self.status = "running"
        self.cuts = 3 if name == "cut" else 0
        self.changed: list[Deferred[None]] = []
        value: Any = {"a": 1} if name != "pickle" else (1, {2})
        encoding = "pickle" if name == "pickle" else "json"
        self.result = pickle.dumps(value) if encoding == "pickle" else json.dumps(value).encode()
        sha256 = hashlib.sha256(self.result).hexdigest()
        self.info = {
            "encoding": encoding,
            "size_bytes": len(self.result),
            "sha256": "0" * 64 if name == "damaged" else sha256,
        }
        frames = [encode_json(Kind.STATUS, {"phase": "running"})]
        if name == "big":
            frames += [encode(Kind.STDOUT, b"%07d\n" % n * 16384) for n in range(256)]
        else:
            for number in range(LINES):
                kind = Kind.STDERR if number % 3 == 0 else Kind.STDOUT
                frames.append(encode(kind, f"line {number} é\n".encode()))
        frames += [encode(Kind.RESULT, self.result[:3]), encode(Kind.RESULT, self.result[3:])]
        frames.append(encode_json(Kind.EXIT, {"outcome": "completed"}))
        self.frames = frames
        self.size = sum(map(len, frames))

    def end(self, status: str) -> None:
        self.status = status
        waiting, self.changed = self.changed, []
        for one in waiting:
            one.callback(None)

    def view(self) -> dict[str, Any]:
        ended = self.status not in ("pending", "running")
        end: dict[str, Any] | None = None
        if self.status == "completed":
            end = {"reason": None, "message": "completed", "result": self.info}
        elif self.status == "failed":
            error = {"type": "ValueError", "message": "no", "traceback": "Traceback: ValueError"}
            end = {"reason": "user_error", "message": "raised", "error": error, "exit_code": 1}
        elif ended:
            end = {"reason": "cancelled_by_user", "message": "by its owner"}
        return {
            "job_id": self.job_id,
            "name": self.name,
            "status": self.status,
            "journal": {"start_offset": 0, "end_offset": self.size},
            "end": end,
        }


class Relay:
    """The procedures that the client uses."""

    def __init__(self, router: Router, wrapper: WrappingFactory) -> None:
        self.jobs: dict[str, Job] = {}
        self.by_key: dict[str, Job] = {}
        self.packages: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.wrapper = wrapper
        self.lose_answers = 1
        self.takes_code = "--before-code" not in sys.argv
        self.held: list[Deferred[None]] = []
        session = router.local()
        for uri, handler in {
            uris.SERVER_INFO: self.server_info,
            uris.PACKAGE_CHECK: self.check,
            uris.PACKAGE_PUT: self.put,
            uris.PACKAGE_COMMIT: self.commit,
            uris.JOB_SUBMIT: self.submit,
            uris.JOB_ATTACH: self.attach,
            uris.JOB_GET: self.get,
            uris.JOB_LIST: self.list,
            uris.JOB_CANCEL: self.cancel,
            uris.JOB_RESULT: self.stored,
            uris.WORKER_LIST: self.release,
        }.items():
            session.register(uri, self.counted(uri, handler))

    def counted(self, uri: str, handler: Any) -> Any:
        async def call(call: Call) -> Mapping[str, Any]:
            self.counts[uri] += 1
            answer: Mapping[str, Any] = await handler(call, **call.kwargs)
            return answer

        return call

    def cut(self) -> None:
        """Every connection breaks."""
        for protocol in list(self.wrapper.protocols):
            protocol.transport.abortConnection()

    async def server_info(self, call: Call) -> Mapping[str, Any]:
        return {"counts": dict(self.counts), "owner": call.caller.owner, "jobs": len(self.jobs)}

    async def check(self, call: Call, sha256: str, size_bytes: int) -> Mapping[str, Any]:
        held = self.packages.get(sha256, b"")
        return {"present": len(held) == size_bytes, "offset": len(held), "chunk_bytes": 100}

    async def put(self, call: Call, sha256: str, offset: int, data: bytes) -> Mapping[str, Any]:
        held = self.packages.get(sha256, b"")
        if len(data) > 100:
            raise InvalidArgument("chunk too large")
        if offset != len(held):
            raise Conflict("The package is not uploaded so far", details={"offset": len(held)})
        held = self.packages[sha256] = held + data
        if self.counts[uris.PACKAGE_PUT] == 2:
            self.cut()  # it is held, and nobody was told
        return {"offset": len(held)}

    async def commit(self, call: Call, sha256: str, size_bytes: int) -> Mapping[str, Any]:
        if hashlib.sha256(self.packages[sha256]).hexdigest() != sha256:
            raise InvalidArgument("wrong hash")
        return {"present": True}

    async def submit(
        self, call: Call, spec: dict[str, Any], follow: bool = True, code: bytes | None = None
    ) -> Mapping[str, Any]:
        if code is not None and not self.takes_code:
            faults = [{"key": "code", "message": "is no argument of this procedure"}]
            raise InvalidArgument("Invalid arguments: code", details={"faults": faults})
        if not 0 < spec["gpu_memory"] <= 1:
            faults = [{"key": "gpu_memory", "message": "must be over 0 and at most 1"}]
            raise InvalidArgument("the job is malformed", job_id="j0", details={"faults": faults})
        key = spec["idempotency_key"]
        sha256 = spec["package"]["sha256"]
        if code is not None and hashlib.sha256(code).hexdigest() == sha256:
            self.packages[sha256] = code
        if len(self.packages.get(sha256, b"")) != spec["package"]["size_bytes"]:
            raise NotFound(f"The package {sha256} was not uploaded")
        if key not in self.by_key:
            job = Job(f"job-{len(self.jobs) + 1}", spec["name"])
            self.jobs[job.job_id] = self.by_key[key] = job
        job = self.by_key[key]
        if job.name == "lost-answer" and self.lose_answers:
            self.lose_answers -= 1
            self.cut()
        if job.name == "slow":
            # It is durable; its client hears of it when somebody asks for the workers.
            held: Deferred[None] = Deferred()
            self.held.append(held)
            await held
        accepted = {"event": "accepted", "job": job.view()}
        if not (follow and call.wants_progress):
            return accepted
        return await self.follow(call, job, 0)

    async def attach(self, call: Call, job_id: str, from_offset: int = 0) -> Mapping[str, Any]:
        return await self.follow(call, self.job(job_id), from_offset)

    def job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise NotFound(f"There is no job {job_id}", job_id=job_id, hint="look at list_jobs")
        return self.jobs[job_id]

    async def follow(self, call: Call, job: Job, offset: int) -> Mapping[str, Any]:
        await call.progress({"event": "accepted", "job": job.view()})
        at, batch, start, sent = 0, b"", offset, 0
        for frame in job.frames:
            if at >= offset:
                if not batch:
                    start = at
                batch += frame
            at += len(frame)
            limit = 2000 if job.cuts else MESSAGE_BYTES
            if len(batch) >= limit or (batch and at == job.size):
                await call.progress(
                    {"event": "journal", "offset": start, "next_offset": at, "frames": batch}
                )
                batch, sent = b"", sent + 1
                if job.cuts and sent == 4:
                    job.cuts -= 1
                    await task.deferLater(reactor, 0.05, self.cut)
        if job.name in ("pending", "stuck", "slow"):
            if job.status == "running":
                waiting: Deferred[None] = Deferred()
                job.changed.append(waiting)
                await waiting
        else:
            job.status = "failed" if job.name == "failed" else "completed"
        await call.progress({"event": "state", "job": job.view()})
        return {"event": "end", "job": job.view()}

    async def get(self, call: Call, job_id: str) -> Mapping[str, Any]:
        return self.job(job_id).view()

    async def list(self, call: Call, active: bool, limit: int) -> Mapping[str, Any]:
        return {"jobs": [job.view() for job in reversed(self.jobs.values())][:limit]}

    async def cancel(self, call: Call, job_id: str) -> Mapping[str, Any]:
        job = self.job(job_id)
        if job.status != "running":
            raise Conflict(f"job {job_id} has ended", job_id=job_id)
        if job.name != "stuck":
            job.end("cancelled")
        return {"cancelled": True, "message": "cancelling", "state": job.status}

    async def release(self, call: Call) -> Mapping[str, Any]:
        waiting, self.held = self.held, []
        for one in waiting:
            one.callback(None)
        return {"workers": []}

    async def stored(self, call: Call, job_id: str) -> Mapping[str, Any]:
        job = self.job(job_id)
        await call.progress({"offset": 0, "data": job.result})
        return {**job.info}


class Parent(Protocol):
    """Whoever started this; when it goes, so do we."""

    def connectionLost(self, reason: Any = None) -> None:
        if reactor.running:
            reactor.stop()


def main() -> None:
    tokens = []
    if "--token" in sys.argv:
        who = Principal(name="t", owner="ada", role=Role.CLIENT)
        tokens = [(hash_token("secret"), who)]
    router = Router(clock=reactor, authenticator=Authenticator(tokens))
    root: Any = Resource()  # type: ignore[no-untyped-call]
    root.putChild(b"ws", router.websocket_resource())
    site: Any = Site(root)  # type: ignore[no-untyped-call]
    wrapper: Any = WrappingFactory(site)  # type: ignore[no-untyped-call]
    Relay(router, wrapper)
    port: Any = reactor.listenTCP(0, wrapper, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    StandardIO(Parent())  # type: ignore[no-untyped-call]
    reactor.run()


main()
