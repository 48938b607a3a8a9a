"""The whole of what HTTP offers: path, method, who may, and what of a query is known.

What isn't here is refused. Pure: no I/O.
"""

from collections.abc import Iterable, Mapping

import attrs

from cumulusd.identity import Role

_PEOPLE = frozenset({Role.CLIENT, Role.ADMIN, Role.VIEWER})
_SUBMITTERS = frozenset({Role.CLIENT, Role.ADMIN})
_OPERATORS = frozenset({Role.ADMIN, Role.VIEWER})

#: Enough for a token and the names of a machine and a node.
_PROVISION_BYTES = 4096
#: A parameter that is longer is no job's id and no output's name: nothing is there.
_MAX_PARAMETER_CHARS = 512


@attrs.frozen
class Route:
    """One line of the table. `{name}` in a path is any one part of it, `{name...}` all the rest."""

    method: str
    path: str
    name: str  #: of what answers
    roles: frozenset[Role] | None  #: None: open to everybody
    query: tuple[str, ...] | None = ()  #: the keys that are known; None: it isn't looked at
    takes_job: bool = False  #: its body is a job; other bodies are small, and ignored
    body_bytes: int = 0  #: its body is JSON, and brings the token: this large at most


ROUTES = (
    Route("GET", "/", "page", None, query=None),
    Route("GET", "/page/{name}", "page_file", None, query=None),
    Route("GET", "/health", "health", None, query=None),
    Route("GET", "/health/live", "live", None, query=None),
    Route("GET", "/metrics", "metrics", _OPERATORS, query=None),
    Route("GET", "/metrics/workers", "worker_metrics", _OPERATORS, query=None),
    Route("GET", "/api/info", "info", _PEOPLE),
    Route("GET", "/api/workers", "workers", _PEOPLE),
    Route("GET", "/api/jobs", "list", _PEOPLE, query=("active", "limit")),
    Route("POST", "/api/jobs", "submit", _SUBMITTERS, takes_job=True),
    Route("GET", "/api/jobs/{job_id}", "get", _PEOPLE),
    Route("GET", "/api/jobs/{job_id}/results", "results", _PEOPLE),
    Route("GET", "/api/jobs/{job_id}/logs", "logs", _PEOPLE, query=("follow", "from_offset")),
    Route("GET", "/api/jobs/{job_id}/outputs", "outputs", _PEOPLE),
    Route("GET", "/api/jobs/{job_id}/outputs/{name...}", "output", _PEOPLE),
    Route("GET", "/api/jobs/{job_id}/checkpoints", "checkpoints", _PEOPLE),
    Route("POST", "/api/jobs/{job_id}/cancel", "cancel", _SUBMITTERS),
    Route("POST", "/api/jobs/{job_id}/pause", "pause", _SUBMITTERS),
    Route("POST", "/api/jobs/{job_id}/resume", "resume", _SUBMITTERS),
    Route("DELETE", "/api/jobs/{job_id}", "delete", _SUBMITTERS),
    # Open to everybody who has a provisioning token, which stands in the body, or as Bearer. The
    # scripts hold no secret.
    Route("GET", "/provision/worker.sh", "worker.sh", None),
    Route("GET", "/provision/manager.sh", "manager.sh", None),
    Route("GET", "/provision/firewall.sh", "firewall.sh", None),
    Route("POST", "/provision/join", "join", None, body_bytes=_PROVISION_BYTES),
    Route("POST", "/provision/enroll", "enroll", None, body_bytes=_PROVISION_BYTES),
    Route("POST", "/provision/status", "status", None, body_bytes=_PROVISION_BYTES),
    Route("POST", "/provision/leave", "leave", None, body_bytes=_PROVISION_BYTES),
    Route("GET", "/provision/images/{image_id}", "image", None),
)


@attrs.frozen
class Found:
    """A path that is there."""

    path: str  #: as in the table
    methods: Mapping[str, Route]
    parameters: Mapping[str, str]

    @property
    def allow(self) -> str:
        """The header `Allow`."""
        offered = set(self.methods) | ({"HEAD"} if "GET" in self.methods else set())
        return ", ".join(sorted(offered))

    @property
    def roles(self) -> frozenset[Role] | None:
        """Who may do anything there; None: everybody."""
        roles: frozenset[Role] = frozenset()
        for route in self.methods.values():
            if route.roles is None:
                return None
            roles |= route.roles
        return roles

    def route(self, method: str) -> Route | None:
        """What that method does there."""
        return self.methods.get("GET" if method == "HEAD" else method)


class Routes:
    """The table, by path."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._paths.setdefault(route.path, {})[route.method] = route

    def find(self, path: str) -> Found | None:
        """What is at that (decoded) path; a slash at its end makes no difference."""
        if len(path) > 1 and path.endswith("/"):
            path = path[:-1]
        parts = path.split("/")
        for template, methods in self._paths.items():
            parameters = _match(template.split("/"), parts)
            if parameters is not None:
                return Found(template, methods, parameters)
        return None


def _match(template: list[str], parts: list[str]) -> dict[str, str] | None:
    if template[-1].endswith("...}") and len(parts) >= len(template):
        last = len(template) - 1
        parts = [*parts[:last], "/".join(parts[last:])]
    if len(template) != len(parts):
        return None
    parameters = {}
    for wanted, part in zip(template, parts, strict=True):
        if wanted.startswith("{"):
            if not 0 < len(part) <= _MAX_PARAMETER_CHARS:
                return None
            parameters[wanted.strip("{.}")] = part
        elif wanted != part:
            return None
    return parameters
