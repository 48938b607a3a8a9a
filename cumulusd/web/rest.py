"""HTTP's paths: who may read which, and what each answers. All are reads in this version."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import (
    CumulusError,
    InternalError,
    InvalidArgument,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
)
from cumulusd.identity import Authenticator, Principal, Role
from cumulusd.metrics import CONTENT_TYPE, Metrics

__all__ = ["Answer", "Relay", "Rest", "error_answer", "json_answer", "unknown_error"]

MAX_JOBS = 1000
_PEOPLE = frozenset({Role.CLIENT, Role.ADMIN, Role.VIEWER})
_OPERATORS = frozenset({Role.ADMIN, Role.VIEWER})


class Relay(Protocol):
    """The use cases that HTTP needs. Errors are CumulusError subclasses."""

    def health(self) -> dict[str, str]:
        """Part of the daemon -> "ok" or why it is not."""

    def info(self, who: Principal) -> dict[str, Any]:
        """What `cumulus.server.info` answers."""

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        """The job views this principal may see, newest first."""

    def get(self, who: Principal, job_id: str) -> dict[str, Any]:
        """One job view. Raises NotFound."""

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        """The job's output as far as it is kept, read as it is asked for. Raises NotFound at once,
        CumulusError later."""


@attrs.frozen(kw_only=True)
class Answer:
    """An HTTP answer: whole, or `body` followed by what `stream` gives, as fast as it is read."""

    status: int
    body: bytes
    stream: Iterator[bytes] | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """`value` as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return Answer(
        status=status,
        body=body,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


def unknown_error(log: Logger, failure: Failure, what: str, job_id: str | None) -> InternalError:
    """Logs the cause; what leaves tells only where it stands."""
    log_id = secrets.token_hex(8)
    log.failure("{what} failed, log id {log_id}", failure, what=what, log_id=log_id, job_id=job_id)
    return InternalError(
        f"The daemon failed to answer; its log has the cause under {log_id}",
        job_id=job_id,
        details={"log_id": log_id},
        hint="tell the daemon's operator that log id",
    )


def error_answer(error: CumulusError, job_id: str | None = None) -> Answer:
    """The error's own status and body; it gets that job's id unless it has one."""
    value = error.as_dict()
    value["job_id"] = value["job_id"] or job_id
    if isinstance(error, NotAuthenticated):
        return json_answer(value, error.status, WWW_Authenticate='Bearer realm="cumulus"')
    return json_answer(value, error.status)


class MethodNotAllowed(CumulusError):
    """The path is there, for reading only."""

    code, status = InvalidArgument.code, 405


@attrs.frozen(kw_only=True)
class _Asked:
    who: Principal
    job_id: str | None
    query: Mapping[str, list[str]]


@attrs.frozen(kw_only=True)
class _Route:
    answer: Callable[[_Asked], Answer]
    roles: frozenset[Role] | None  #: None: open to everybody


class Rest:
    """Answers a request, without doing any I/O. `wall_clock` gives unix seconds."""

    _log = Logger()

    def __init__(
        self,
        *,
        relay: Relay,
        authenticator: Authenticator,
        metrics: Metrics,
        wall_clock: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._authenticator = authenticator
        self._metrics = metrics
        self._wall_clock = wall_clock
        #: The whole of what HTTP offers; what isn't here is refused.
        self._routes: dict[str, _Route] = {
            "/health": _Route(answer=self._health, roles=None),
            "/health/live": _Route(answer=self._live, roles=None),
            "/metrics": _Route(answer=self._metrics_text, roles=_OPERATORS),
            "/api/info": _Route(answer=self._info, roles=_PEOPLE),
            "/api/jobs": _Route(answer=self._jobs, roles=_PEOPLE),
            "/api/jobs/{id}": _Route(answer=self._job, roles=_PEOPLE),
            "/api/jobs/{id}/logs": _Route(answer=self._logs, roles=_PEOPLE),
        }

    def authenticate(self, authorization: str | None) -> Principal:
        """Who asks. Raises NotAuthenticated."""
        who = self._authenticator.authenticate_header(authorization)
        if who is None:
            raise NotAuthenticated(
                "A token is needed"
                if authorization is None
                else "The Authorization header holds no token that is known",
                hint="send the header `Authorization: Bearer <token>`",
            )
        return who

    def answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, list[str]],
        authorization: str | None,
    ) -> Answer:
        """The answer to one request; errors are answers too. `path` is decoded."""
        job_id: str | None = None
        try:
            name, job_id = _route_name(path)
            route = self._routes.get(name)
            if route is None or route.roles is not None:
                who = self.authenticate(authorization)
                if route is None:
                    raise NotFound(f"There is nothing at {path[:200]}")
                self._check_role(who, route, path)
            else:
                who = Principal(name="anybody", owner="", role=Role.VIEWER)
            if method not in ("GET", "HEAD"):
                error = MethodNotAllowed(
                    f"{method[:20]} {path[:200]} is not offered, only GET",
                    hint="jobs are submitted and cancelled over the client (cumulus_client)",
                )
                return attrs.evolve(error_answer(error, job_id), headers={"Allow": "GET, HEAD"})
            return route.answer(_Asked(who=who, job_id=job_id, query=query))
        except CumulusError as error:
            return error_answer(error, job_id)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            what = f"{method} {path}"
            return error_answer(unknown_error(self._log, failure, what, job_id), job_id)

    @staticmethod
    def _check_role(who: Principal, route: _Route, path: str) -> None:
        if route.roles is not None and who.role not in route.roles:
            needed = " or ".join(sorted(role.value for role in route.roles))
            raise NotAuthorized(
                f"A token of role {who.role} may not read {path[:200]}",
                hint=f"use one of role {needed}",
            )

    def _health(self, asked: _Asked) -> Answer:
        parts = self._relay.health()
        well = all(why == "ok" for why in parts.values())
        value = {
            "status": "healthy" if well else "unhealthy",
            "timestamp": self._wall_clock(),
            "parts": parts,
        }
        return json_answer(value, 200 if well else 503)

    def _live(self, asked: _Asked) -> Answer:
        return json_answer({"status": "alive", "timestamp": self._wall_clock()})

    def _metrics_text(self, asked: _Asked) -> Answer:
        return Answer(status=200, body=self._metrics.text(), content_type=CONTENT_TYPE)

    def _info(self, asked: _Asked) -> Answer:
        return json_answer(self._relay.info(asked.who))

    def _jobs(self, asked: _Asked) -> Answer:
        active, limit = parse_job_query(asked.query)
        return json_answer(self._relay.list(asked.who, active, limit))

    def _job(self, asked: _Asked) -> Answer:
        assert asked.job_id is not None  # the route's name has it
        return json_answer(self._relay.get(asked.who, asked.job_id))

    def _logs(self, asked: _Asked) -> Answer:
        assert asked.job_id is not None
        # The bytes are the job's own, UTF-8 or not.
        return Answer(
            status=200,
            body=b"",
            stream=self._relay.logs(asked.who, asked.job_id),
            content_type="text/plain; charset=utf-8",
        )


def _route_name(path: str) -> tuple[str, str | None]:
    """The route's name, and the job id in the path."""
    parent, _, last = path.rpartition("/")
    above, _, job_id = parent.rpartition("/")
    if (above, last) == ("/api/jobs", "logs") and job_id:
        return "/api/jobs/{id}/logs", job_id[:200]
    if parent == "/api/jobs" and last:
        return "/api/jobs/{id}", last[:200]
    if parent and not last:  # a trailing slash, as the old SDK's users may write
        return parent, None
    return path, None


def parse_job_query(query: Mapping[str, list[str]]) -> tuple[bool, int]:
    """(active only?, limit) of `/api/jobs`. Raises InvalidArgument with every fault."""
    active, limit = False, MAX_JOBS
    faults = []
    for key, values in query.items():
        value = values[-1]
        if len(values) > 1:
            faults.append({"key": key, "message": "is given more than once"})
        elif key == "active" and value.lower() in ("0", "1", "false", "true"):
            active = value.lower() in ("1", "true")
        elif key == "active":
            faults.append({"key": key, "message": "must be 0 or 1"})
        elif key == "limit" and value.isascii() and value.isdigit() and len(value) < 5:
            limit = int(value)
            if not 1 <= limit <= MAX_JOBS:
                faults.append({"key": key, "message": f"must be 1 to {MAX_JOBS}"})
        elif key == "limit":
            faults.append({"key": key, "message": f"must be 1 to {MAX_JOBS}"})
        else:
            faults.append({"key": key[:100], "message": "is not known; known: active, limit"})
    if faults:
        words = "; ".join(f"{fault['key']} {fault['message']}" for fault in faults[:20])
        raise InvalidArgument(f"The query is wrong: {words}", details={"faults": faults[:20]})
    return active, limit
