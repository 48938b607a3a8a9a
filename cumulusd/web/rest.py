"""HTTP's paths: who asks, whether it may, and who answers."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import (
    CumulusError,
    InvalidArgument,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    TooLarge,
    TooMany,
)
from cumulusd.identity import Authenticator, Principal, Role
from cumulusd.metrics import CONTENT_TYPE, Metrics
from cumulusd.peers import PLAIN_TOKEN
from cumulusd.web.answers import (
    Answer,
    MethodNotAllowed,
    error_answer,
    json_answer,
    unknown_error,
)
from cumulusd.web.asked import Asked, Head
from cumulusd.web.bodies import (
    MAX_JSON_BYTES,
    Body,
    Flow,
    FormJob,
    IgnoredBody,
    JsonJob,
    SmallBody,
)
from cumulusd.web.job_forms import FIELDS, FILE_FIELD
from cumulusd.web.job_pages import JobPages, JobRelay
from cumulusd.web.multipart import Form, boundary_of
from cumulusd.web.page_site import INDEX, PageSite
from cumulusd.web.provision import Provision, ProvisionPages
from cumulusd.web.routes import Found, Routes

#: Above this, a body that is no job is refused.
MAX_BODY_BYTES = 16 * 1024
#: What a form has beside the package.
_FORM_EXTRA_BYTES = 4 << 20
#: Jobs that may be on their way up at a time.
MAX_UPLOADS = 64
_ANYBODY = Principal(name="anybody", owner="", role=Role.VIEWER)


class Relay(JobRelay, Protocol):
    """The use cases that HTTP needs. Errors are CumulusError subclasses."""

    def health(self) -> dict[str, str]:
        """Part of the daemon -> "ok" or why it is not."""

    def info(self, who: Principal) -> dict[str, Any]:
        """What `cumulus.server.info` answers."""

    def workers(self, who: Principal) -> Any:
        """The list that `cumulus.worker.list` answers."""


class Rest:
    """Answers requests. `wall_clock` gives unix seconds; `clock` is the reactor."""

    _log = Logger()

    def __init__(
        self,
        *,
        relay: Relay,
        authenticator: Authenticator,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        clock: Any,
        allow_plain_tokens: bool = False,
        provision: Provision | None = None,
        worker_metrics: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self._relay = relay
        self._authenticator = authenticator
        self._metrics = metrics
        self._worker_metrics = worker_metrics
        self._wall_clock = wall_clock
        self._clock = clock
        self._allow_plain_tokens = allow_plain_tokens
        self._routes = Routes()
        self._uploads: set[Body] = set()
        self._page = PageSite()
        jobs = JobPages(relay)
        provisioning = ProvisionPages(provision)
        #: By the routes' names.
        self._handlers: dict[str, Callable[[Asked], Awaitable[Answer]]] = {
            "page": self._index,
            "page_file": self._page_file,
            "health": self._health,
            "live": self._live,
            "metrics": self._metrics_text,
            "worker_metrics": self._worker_metrics_text,
            "info": self._info,
            "workers": self._workers,
            "list": jobs.list,
            "submit": jobs.submit,
            "get": jobs.get,
            "results": jobs.results,
            "logs": jobs.logs,
            "outputs": jobs.outputs,
            "output": jobs.output,
            "checkpoints": jobs.checkpoints,
            "cancel": jobs.cancel,
            "pause": jobs.pause,
            "resume": jobs.resume,
            "delete": jobs.delete,
            **provisioning.handlers,
        }

    def authenticate(self, head: Head) -> Principal:
        """Who asks. Raises NotAuthenticated."""
        authorization = head.authorization
        read_along = not (head.secure or self._allow_plain_tokens)
        if authorization is not None:
            self._refuse_read_along(head)
        who = self._authenticator.authenticate_header(authorization)
        if who is None:
            raise NotAuthenticated(
                "A token is needed"
                if authorization is None
                else "The Authorization header holds no token that is known: it is wrong, was "
                "revoked or has expired",
                # Nobody is to be told to send a token where others can read it.
                hint=PLAIN_TOKEN
                if read_along
                else "send the header `Authorization: Bearer <token>`",
            )
        return who

    def asks(self, head: Head) -> str:
        """By which principal's name a request can be cut; nobody's, where it will be refused."""
        who = self._authenticator.authenticate_header(head.authorization)
        return "" if who is None else who.name

    def open_body(self, head: Head, length: int | None, flow: Flow) -> Body:
        """What takes the body of a request whose headers are here; `length` None: unknown.

        Raises CumulusError: nothing of the body is to be read.
        """
        found = self._routes.find(head.path)
        route = None if found is None else found.route(head.method)
        if route is not None and route.body_bytes:
            return self._open_small(head, length, route.body_bytes)
        # Also where no token is needed to ask: nobody may send what nobody asked for.
        who = self.authenticate(head)
        if route is None or not route.takes_job:
            if length is not None and length > MAX_BODY_BYTES:
                raise TooLarge(f"The body of {length} bytes is over {MAX_BODY_BYTES} bytes")
            return IgnoredBody(MAX_BODY_BYTES)
        _check_role(who, route.roles, head)
        return self._open_job(who, head, length, flow)

    def forget_body(self, body: Body) -> None:
        """It has been answered, or lost."""
        body.lost()
        self._uploads.discard(body)

    async def answer(self, head: Head, body: Body | None = None) -> Answer:
        """The answer to one request; errors are answers too."""
        job_id: str | None = None
        try:
            found = self._routes.find(head.path)
            if found is not None:
                job_id = found.parameters.get("job_id")
            who = self._admit(head, found)
            if found is None:
                raise NotFound(f"There is nothing at {head.path[:200]}")
            route = found.route(head.method)
            if route is None:
                error = MethodNotAllowed(
                    f"{head.method[:20]} {head.path[:200]} is not offered, only {found.allow}"
                )
                return attrs.evolve(error_answer(error, job_id), headers={"Allow": found.allow})
            _check_role(who, route.roles, head)
            asked = Asked(
                who=who,
                head=head,
                parameters=found.parameters,
                body=body,
                known=route.query,
            )
            if not route.query:
                asked.check_query()
            return await self._handlers[route.name](asked)
        except CancelledError:
            raise  # the asker went
        except CumulusError as error:
            return error_answer(error, job_id)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            what = f"{head.method} {head.path}"
            return error_answer(unknown_error(self._log, failure, what, job_id), job_id)

    def _admit(self, head: Head, found: Found | None) -> Principal:
        """Who asks; what isn't there needs a token too."""
        if found is not None and found.roles is None:
            if head.authorization is not None and head.path.startswith("/provision/"):
                self._refuse_read_along(head)
            return _ANYBODY
        who = self.authenticate(head)
        if found is not None:
            _check_role(who, found.roles, head)
        return who

    def _refuse_read_along(self, head: Head) -> None:
        if not (head.secure or self._allow_plain_tokens):
            raise NotAuthenticated(f"{PLAIN_TOKEN[0].upper()}{PLAIN_TOKEN[1:]}")

    def _open_small(self, head: Head, length: int | None, max_bytes: int) -> Body:
        # The token is in the body: nobody is known yet, so little is taken.
        self._refuse_read_along(head)
        if length is None or length > max_bytes:
            raise TooLarge(f"{head.path} takes a body of up to {max_bytes} bytes")
        return SmallBody(max_bytes)

    def _open_job(self, who: Principal, head: Head, length: int | None, flow: Flow) -> Body:
        if len(self._uploads) >= MAX_UPLOADS:
            raise TooMany(
                f"{MAX_UPLOADS} jobs are being uploaded already", hint="try again in a moment"
            )
        kind = (head.content_type or "").partition(";")[0].strip().lower()
        body: Body
        if kind == "multipart/form-data":
            bound = self._relay.package_max_bytes + _FORM_EXTRA_BYTES
            boundary = boundary_of(head.content_type or "")
        elif kind == "application/json":
            bound = MAX_JSON_BYTES
        else:
            raise InvalidArgument(
                f"A job is posted as multipart/form-data or application/json, not as {kind[:100]!r}"
            )
        if length is not None and length > bound:
            raise TooLarge(
                f"The body of {length} bytes is over {bound} bytes",
                details={"size_bytes": length, "max_bytes": bound},
                hint="leave data out of the package and fetch it inside the job",
            )
        if kind == "application/json":
            self._relay.check_upload(who)
            body = JsonJob(lambda: self._relay.receive(who), flow, self._clock)
        else:
            form = Form(boundary, FILE_FIELD, FIELDS)
            body = FormJob(form, self._relay.receive(who), flow, self._clock, bound)
        self._uploads.add(body)
        return body

    async def _health(self, asked: Asked) -> Answer:
        parts = self._relay.health()
        well = all(why == "ok" for why in parts.values())
        value = {
            "status": "healthy" if well else "unhealthy",
            "timestamp": self._wall_clock(),
            "parts": parts,
        }
        return json_answer(value, 200 if well else 503)

    async def _live(self, asked: Asked) -> Answer:
        return json_answer({"status": "alive", "timestamp": self._wall_clock()})

    async def _metrics_text(self, asked: Asked) -> Answer:
        return Answer(status=200, body=self._metrics.text(), content_type=CONTENT_TYPE)

    async def _index(self, asked: Asked) -> Answer:
        return self._page.answer(INDEX, asked.head.if_none_match)

    async def _page_file(self, asked: Asked) -> Answer:
        return self._page.answer(asked.parameters["name"], asked.head.if_none_match)

    async def _worker_metrics_text(self, asked: Asked) -> Answer:
        return Answer(status=200, body=self._worker_metrics(), content_type=CONTENT_TYPE)

    async def _info(self, asked: Asked) -> Answer:
        return json_answer(self._relay.info(asked.who))

    async def _workers(self, asked: Asked) -> Answer:
        return json_answer({"workers": self._relay.workers(asked.who)})


def _check_role(who: Principal, roles: frozenset[Role] | None, head: Head) -> None:
    if roles is not None and who.role not in roles:
        needed = " or ".join(sorted(role.value for role in roles))
        raise NotAuthorized(
            f"A token of role {who.role} may not {head.method[:20]} {head.path[:200]}",
            hint=f"use one of role {needed}",
        )
