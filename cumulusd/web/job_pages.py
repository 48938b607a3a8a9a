"""What `/api/jobs` and what is below it answer: decode, ask the relay, encode."""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import Conflict, CumulusError, InvalidArgument, NotFound
from cumulusd.identity import Principal
from cumulusd.web.answers import Answer, Send, json_answer, unknown_error
from cumulusd.web.asked import Asked
from cumulusd.web.bodies import FormJob, JsonJob, Upload
from cumulusd.web.log_events import RETRY_MS, event, events_of

MAX_JOBS = 1000
_MAX_OFFSET = 1 << 62
_EVENTS = "text/event-stream"


class ResultInfo(Protocol):
    """What is known of a result."""

    @property
    def encoding(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class OutputInfo(Protocol):
    """What is known of a file that a job left."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class JobRelay(Protocol):
    """The use cases for jobs. Errors are CumulusError subclasses."""

    package_max_bytes: int

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        """The job views this principal may see, newest first."""

    def get(self, who: Principal, job_id: str) -> dict[str, Any]:
        """One job view. Raises NotFound."""

    def check_upload(self, who: Principal) -> None:
        """Raises CumulusError when a job that is uploaded now would be refused."""

    def receive(self, who: Principal) -> Upload:
        """A new upload. Raises what `check_upload` does."""

    async def submit_posted(
        self, who: Principal, spec_value: Any, job_id: Any, faults: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """The view of the new job, which is durable."""

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        """The job's output as far as it is kept, read as it is asked for. Raises NotFound at once,
        CumulusError later."""

    async def follow(
        self,
        who: Principal,
        job_id: str,
        from_offset: int,
        sink: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        """State changes and journal in order to `sink`, until the job has ended."""

    def result_pieces(self, who: Principal, job_id: str) -> tuple[ResultInfo, Iterator[bytes]]:
        """What the result is, and its bytes, read as they are asked for."""

    def outputs(self, who: Principal, job_id: str) -> dict[str, Any]:
        """The files that the job left. Raises NotEnded."""

    def output_pieces(
        self, who: Principal, job_id: str, name: str
    ) -> tuple[OutputInfo, Iterator[bytes]]:
        """What one of them is, and its bytes, read as they are asked for."""

    def checkpoints(self, who: Principal, job_id: str) -> dict[str, Any]:
        """What `cumulus.job.checkpoints` answers."""

    async def cancel(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Asks a job to end."""

    async def pause(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Asks a job's code to pause."""

    async def resume(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Queues a paused job again."""

    async def delete(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Deletes all of an ended job."""


class JobPages:
    """Handlers, one for each of the routes about jobs."""

    _log = Logger()

    def __init__(self, relay: JobRelay) -> None:
        self._relay = relay

    async def list(self, asked: Asked) -> Answer:
        """The jobs one may see, newest first."""
        active, limit = asked.flag("active"), asked.number("limit", 1, MAX_JOBS)
        asked.check_query()
        return json_answer(self._relay.list(asked.who, bool(active), limit or MAX_JOBS))

    async def submit(self, asked: Asked) -> Answer:
        """A new job, its package in the body."""
        body = asked.body
        if not isinstance(body, JsonJob | FormJob):
            raise InvalidArgument(
                "There is no job in the request: it has no body",
                hint="post code, job_id, gpu_memory and duration as multipart/form-data",
            )
        posted = await body.job()
        view = await self._relay.submit_posted(asked.who, posted.spec, posted.job_id, posted.faults)
        wait = view.get("wait") or {}
        message = f"Job submitted: {wait.get('message', view['status'])}"
        return json_answer({"job_id": view["job_id"], "status": view["status"], "message": message})

    async def get(self, asked: Asked) -> Answer:
        """One job's view."""
        return json_answer(self._relay.get(asked.who, asked.parameters["job_id"]))

    async def results(self, asked: Asked) -> Answer:
        """The result as the job left it, if that is JSON."""
        job_id = asked.parameters["job_id"]
        view = self._relay.get(asked.who, job_id)
        if view["status"] == "completed" and view["end"]["result"] is None:
            raise NotFound(
                f"Job {job_id} is completed and left no result",
                job_id=job_id,
                hint=f"what it printed is at /api/jobs/{job_id}/logs",
            )
        info, pieces = self._relay.result_pieces(asked.who, job_id)
        if info.encoding != "json":
            raise Conflict(
                f"The result of job {job_id} is a Python {info.encoding} of {info.size_bytes} "
                "bytes, which the daemon never opens",
                job_id=job_id,
                details={"encoding": info.encoding, "size_bytes": info.size_bytes},
                hint="fetch it with the client that submitted the job (cumulus_client), or let the "
                "function return what JSON can hold",
            )
        # What can't be read at all is told by the status yet.
        first = next(pieces, b"")
        return Answer(
            status=200, stream=itertools.chain([first], pieces), stream_bytes=info.size_bytes
        )

    async def logs(self, asked: Asked) -> Answer:
        """The output that is there, or all of it as it comes."""
        job_id, head = asked.parameters["job_id"], asked.head
        follow, offset = asked.flag("follow"), asked.number("from_offset", 0, _MAX_OFFSET)
        if follow is None:
            follow = _EVENTS in head.accept.lower()
        if not follow and offset is not None:
            asked.fault("from_offset", "is for follow=1")
        asked.check_query()
        if not follow:
            # The bytes are the job's own, UTF-8 or not.
            return Answer(
                status=200,
                stream=self._relay.logs(asked.who, job_id),
                content_type="text/plain; charset=utf-8",
            )
        view = self._relay.get(asked.who, job_id)
        last = _last_event(head.last_event_id)
        if last is not None and view["end"] and last >= view["journal"]["end_offset"]:
            return Answer(status=204)  # which tells an EventSource that this was all
        begin = last if last is not None else offset or 0

        async def follow_it(send: Send) -> None:
            await self._follow(asked.who, job_id, begin, send)

        # Lest a proxy between gathers them.
        headers = {"X-Accel-Buffering": "no"}
        return Answer(status=200, events=follow_it, content_type=_EVENTS, headers=headers)

    async def outputs(self, asked: Asked) -> Answer:
        """The files that the job left."""
        return json_answer(self._relay.outputs(asked.who, asked.parameters["job_id"]))

    async def output(self, asked: Asked) -> Answer:
        """One of them, byte for byte."""
        job_id, name = asked.parameters["job_id"], asked.parameters["name"]
        info, pieces = self._relay.output_pieces(asked.who, job_id, name)
        file_name = quote(name.rpartition("/")[2])
        return Answer(
            status=200,
            stream=pieces,
            stream_bytes=info.size_bytes,
            content_type="application/octet-stream",
            headers={
                "Content-Disposition": f"attachment; filename*=UTF-8''{file_name}",
                "ETag": f'"{info.sha256}"',
            },
        )

    async def checkpoints(self, asked: Asked) -> Answer:
        """The list alone, as the old server gave it."""
        told = self._relay.checkpoints(asked.who, asked.parameters["job_id"])
        return json_answer(told["checkpoints"])

    async def cancel(self, asked: Asked) -> Answer:
        """Asks a job to end."""
        return json_answer(await self._relay.cancel(asked.who, asked.parameters["job_id"]))

    async def pause(self, asked: Asked) -> Answer:
        """Asks a job's code to pause."""
        return json_answer(await self._relay.pause(asked.who, asked.parameters["job_id"]))

    async def resume(self, asked: Asked) -> Answer:
        """Queues a paused job again."""
        return json_answer(await self._relay.resume(asked.who, asked.parameters["job_id"]))

    async def delete(self, asked: Asked) -> Answer:
        """Leaves nothing of an ended job."""
        return json_answer(await self._relay.delete(asked.who, asked.parameters["job_id"]))

    async def _follow(self, who: Principal, job_id: str, offset: int, send: Send) -> None:
        """Sends the job's events until it has ended; what goes wrong is an event too."""

        async def sink(part: Mapping[str, Any]) -> None:
            for text in events_of(part):
                await send(text)

        await send(f"retry: {RETRY_MS}\n\n".encode())
        try:
            try:
                end = await self._relay.follow(who, job_id, offset, sink)
            except InvalidArgument as error:
                go_on = error.details.get("continue_from")
                if not isinstance(go_on, int):
                    raise
                # What the reader has behind that is void: the daemon lost it with its power.
                gap = {"from": go_on, "to": None, "void_to": offset}
                await send(event("gap", gap, go_on))
                end = await self._relay.follow(who, job_id, go_on, sink)
            await sink(end)
        except CancelledError:
            raise
        except CumulusError as error:
            await send(event("error", {**error.as_dict(), "job_id": error.job_id or job_id}))
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            told = unknown_error(self._log, failure, f"following job {job_id}", job_id)
            await send(event("error", told.as_dict()))


def _last_event(text: str | None) -> int | None:
    """The offset that a reader who comes back has; what is none counts for nothing."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return int(text)
