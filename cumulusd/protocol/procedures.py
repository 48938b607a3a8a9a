"""The relay's use cases as WAMP procedures: decode the arguments, call, encode the answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cumulus_wire import uris
from cumulusd.errors import InvalidArgument
from cumulusd.job_search import Search
from cumulusd.jobs.model import JobRecord
from cumulusd.protocol.local_session import Call, LocalSession
from cumulusd.relay import Relay

_REQUIRED: Any = object()


class Arguments:
    """The keyword arguments of a call, taken one by one and checked; all faults at once."""

    def __init__(self, call: Call) -> None:
        self._kwargs = dict(call.kwargs)
        self._faults: list[dict[str, str]] = []
        if call.args:
            self._fault("", "arguments are given by keyword")

    def take(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The argument `key`, which must be of type `kind`; `default` when left out."""
        if key not in self._kwargs:
            if default is _REQUIRED:
                self._fault(key, "is required")
            return default
        value = self._kwargs.pop(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._fault(key, f"must be {kind.__name__}, got {type(value).__name__}")
        elif isinstance(value, int) and value < 0:
            self._fault(key, "must not be negative")
        return value

    def end(self) -> None:
        """Raises InvalidArgument with all faults; also for arguments nobody took."""
        for key in self._kwargs:
            self._fault(key, "is no argument of this procedure")
        if self._faults:
            words = "; ".join(f"{fault['key']}: {fault['message']}" for fault in self._faults)
            raise InvalidArgument(f"Invalid arguments: {words}", details={"faults": self._faults})

    def _fault(self, key: str, message: str) -> None:
        self._faults.append({"key": key, "message": message})


Handler = Callable[[Call], Awaitable[Mapping[str, Any] | None]]


class Procedures:
    """Registers everything a client may call, and publishes what changes."""

    def __init__(self, relay: Relay, session: LocalSession) -> None:
        self._relay = relay
        self._session = session

    def register(self) -> None:
        """Registers all of them."""
        handlers: dict[str, Handler] = {
            uris.SERVER_INFO: self._server_info,
            uris.WORKER_LIST: self._worker_list,
            uris.PACKAGE_CHECK: self._package_check,
            uris.PACKAGE_PUT: self._package_put,
            uris.PACKAGE_COMMIT: self._package_commit,
            uris.JOB_SUBMIT: self._job_submit,
            uris.JOB_ATTACH: self._job_attach,
            uris.JOB_GET: self._job_get,
            uris.JOB_LIST: self._job_list,
            uris.JOB_SEARCH: self._job_search,
            uris.JOB_CANCEL: self._job_cancel,
            uris.JOB_PAUSE: self._job_pause,
            uris.JOB_RESUME: self._job_resume,
            uris.JOB_CHECKPOINTS: self._job_checkpoints,
            uris.JOB_DELETE: self._job_delete,
            uris.JOB_RESULT: self._job_result,
            uris.JOB_OUTPUTS: self._job_outputs,
            uris.JOB_OUTPUT: self._job_output,
        }
        for uri, handler in handlers.items():
            self._session.register(uri, handler)

    def job_changed(self, record: JobRecord) -> None:
        """Tells the subscribers of this job and of all jobs."""
        heard = [topic for topic in _topics_of(record.job_id) if self._session.is_heard(topic)]
        if not heard:
            return  # as for most jobs: each change of a wait would make a view of it for nobody
        event = {"job": self._relay.view(record)}
        for topic in heard:
            self._session.publish(topic, event)

    def hears_of_job(self, job_id: str) -> bool:
        """Whether anybody is told by `job_changed`."""
        return any(self._session.is_heard(topic) for topic in _topics_of(job_id))

    def hears_of_workers(self) -> bool:
        """Whether anybody is told by `workers_changed`."""
        return self._session.is_heard(uris.TOPIC_WORKERS)

    def workers_changed(self, views: Sequence[Mapping[str, Any]]) -> None:
        """Tells who listens to the workers: `admin` and `viewer`, who may see all of this."""
        self._session.publish(uris.TOPIC_WORKERS, {"workers": list(views)})

    def job_forgotten(self, job_id: str) -> None:
        """Its topic goes with it: another owner's job may get the same id, by its own choice."""
        self._session.end_topic(uris.job_status_topic(job_id))

    async def _server_info(self, call: Call) -> Mapping[str, Any]:
        Arguments(call).end()
        return self._relay.info(call.caller)

    async def _worker_list(self, call: Call) -> Mapping[str, Any]:
        Arguments(call).end()
        return {"workers": self._relay.workers(call.caller)}

    async def _package_check(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        sha256, size = arguments.take("sha256", str), arguments.take("size_bytes", int)
        arguments.end()
        return self._relay.package_check(call.caller, sha256, size)

    async def _package_put(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        sha256, offset = arguments.take("sha256", str), arguments.take("offset", int)
        data = arguments.take("data", bytes)
        arguments.end()
        return await self._relay.package_put(call.caller, sha256, offset, data)

    async def _package_commit(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        sha256, size = arguments.take("sha256", str), arguments.take("size_bytes", int)
        arguments.end()
        return await self._relay.package_commit(call.caller, sha256, size)

    async def _job_submit(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        spec, follow = arguments.take("spec", dict), arguments.take("follow", bool, True)
        code = arguments.take("code", bytes, None)
        arguments.end()
        submitting = self._relay.submit(call.caller, spec, code=code)
        # It may be followed for long: neither package nor secrets stay in memory meanwhile.
        call.kwargs.clear()
        del code, spec
        job = await submitting
        accepted = {"event": "accepted", "job": job}
        if not (follow and call.wants_progress):
            return accepted
        await call.progress(accepted)
        return await self._relay.follow(call.caller, job["job_id"], 0, call.progress)

    async def _job_attach(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        job_id = arguments.take("job_id", str)
        from_offset = arguments.take("from_offset", int, 0)
        tail_bytes = arguments.take("tail_bytes", int, None)
        arguments.end()
        if not call.wants_progress:
            raise InvalidArgument(
                "Following a job needs the call option receive_progress",
                job_id=job_id,
                hint="without it, ask cumulus.job.get for the state",
            )
        return await self._relay.follow(call.caller, job_id, from_offset, call.progress, tail_bytes)

    async def _job_get(self, call: Call) -> Mapping[str, Any]:
        return self._relay.get(call.caller, self._job_id(call))

    async def _job_list(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        active = arguments.take("active", bool, False)
        limit = arguments.take("limit", int, 1000)
        arguments.end()
        return {"jobs": self._relay.list(call.caller, active, min(limit, 1000))}

    async def _job_search(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        search = {
            "states": arguments.take("states", list, []),
            "owner": arguments.take("owner", str, ""),
            "text": arguments.take("text", str, ""),
            "order": arguments.take("order", str, "newest"),
            "after": arguments.take("after", str, ""),
            "limit": arguments.take("limit", int, 50),
        }
        arguments.end()
        return self._relay.search(call.caller, Search.read(**search))

    async def _job_cancel(self, call: Call) -> Mapping[str, Any]:
        return await self._relay.cancel(call.caller, self._job_id(call))

    async def _job_pause(self, call: Call) -> Mapping[str, Any]:
        return await self._relay.pause(call.caller, self._job_id(call))

    async def _job_resume(self, call: Call) -> Mapping[str, Any]:
        return await self._relay.resume(call.caller, self._job_id(call))

    async def _job_checkpoints(self, call: Call) -> Mapping[str, Any]:
        return self._relay.checkpoints(call.caller, self._job_id(call))

    async def _job_delete(self, call: Call) -> Mapping[str, Any]:
        return await self._relay.delete(call.caller, self._job_id(call))

    async def _job_result(self, call: Call) -> Mapping[str, Any]:
        sink = call.progress if call.wants_progress else None
        return await self._relay.result(call.caller, self._job_id(call), sink)

    async def _job_outputs(self, call: Call) -> Mapping[str, Any]:
        return self._relay.outputs(call.caller, self._job_id(call))

    async def _job_output(self, call: Call) -> Mapping[str, Any]:
        arguments = Arguments(call)
        job_id, name = arguments.take("job_id", str), arguments.take("name", str)
        offset = arguments.take("offset", int, 0)
        arguments.end()
        sink = call.progress if call.wants_progress else None
        return await self._relay.output(call.caller, job_id, name, offset, sink)

    @staticmethod
    def _job_id(call: Call) -> str:
        arguments = Arguments(call)
        job_id: str = arguments.take("job_id", str)
        arguments.end()
        return job_id


def _topics_of(job_id: str) -> tuple[str, str]:
    return uris.TOPIC_JOBS, uris.job_status_topic(job_id)
