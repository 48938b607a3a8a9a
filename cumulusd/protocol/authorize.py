"""Who may do what: one table, role x action x URI. What it doesn't allow is denied."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from cumulus_wire import uris
from cumulusd.identity import Principal, Role
from cumulusd.protocol.match import bind, covers


class Action(StrEnum):
    """What a session asks of the router."""

    CALL = "call"
    REGISTER = "register"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"


#: Is the job (second argument) the principal's own?
OwnsJob = Callable[[Principal, str], bool]

#: The pattern of a router that is open to all, as tests and benchmarks have it.
ANYTHING = "{anything}"

_READING = (
    uris.JOB_GET,
    uris.JOB_LIST,
    uris.JOB_ATTACH,
    uris.JOB_RESULT,
    uris.JOB_CHECKPOINTS,
    uris.JOB_OUTPUTS,
    uris.JOB_OUTPUT,
    uris.WORKER_LIST,
    uris.SERVER_INFO,
)
_USING = ("cumulus.package.*", "cumulus.job.*", uris.WORKER_LIST, uris.SERVER_INFO)
#: WAMP's meta API: who is there, and what is offered and listened to.
_META = ("wamp.session.*", "wamp.subscription.*", "wamp.registration.*")
_META_READING = (
    *("wamp.session.count", "wamp.session.list", "wamp.session.get"),
    *("wamp.subscription.*", "wamp.registration.*"),
)
_META_TOPICS = ("wamp.session.**", "wamp.subscription.**", "wamp.registration.**")
_ALL_TOPICS = (
    *(uris.job_status_topic("{any_job}"), uris.TOPIC_JOBS, uris.TOPIC_WORKERS),
    *_META_TOPICS,
)

#: Role and action to URI patterns.
Table = Mapping[tuple[Role, Action], tuple[str, ...]]

#: `*` and `{any_job}` take one component, a last `**` one or more; `{own_job}` a job of the
#: principal's owner, `{own_node}` the node that the agent stands for, `{verb}` one of AGENT_VERBS.
#: The daemon's own session is not asked. Nobody remote may publish, or call an agent.
ALLOWED: Table = MappingProxyType(
    {
        (Role.CLIENT, Action.CALL): _USING,
        (Role.CLIENT, Action.SUBSCRIBE): (uris.job_status_topic("{own_job}"),),
        (Role.VIEWER, Action.CALL): (*_READING, *_META_READING),
        (Role.VIEWER, Action.SUBSCRIBE): _ALL_TOPICS,
        (Role.ADMIN, Action.CALL): (*_USING, *_META),
        (Role.ADMIN, Action.SUBSCRIBE): _ALL_TOPICS,
        (Role.AGENT, Action.REGISTER): (uris.agent_procedure("{own_node}", "{verb}"),),
    }
)


def is_allowed(
    principal: Principal, action: Action, uri: str, owns_job: OwnsJob, table: Table = ALLOWED
) -> bool:
    """May the principal do that? `owns_job` is asked only where the table says `{own_job}`."""
    return any(
        _matches(pattern, principal, uri, owns_job)
        for pattern in table.get((principal.role, action), ())
    )


def is_pattern_allowed(
    principal: Principal,
    action: Action,
    pattern: str,
    policy: str,
    owns_job: OwnsJob,
    table: Table = ALLOWED,
) -> bool:
    """May the principal subscribe or register under a pattern (`policy` prefix or wildcard)?

    Only if one row of the table allows every URI that the pattern matches, so that events and
    calls under it need no further judging. Rows of `{own_node}` cover no pattern: agents register
    procedure by procedure.
    """

    def takes(name: str, value: str | None) -> bool:
        if name == "own_job":
            return value is not None and owns_job(principal, value)
        return name not in ("own_node", "verb")

    return any(
        row == ANYTHING or covers(row, pattern, policy, takes)
        for row in table.get((principal.role, action), ())
    )


def _matches(pattern: str, principal: Principal, uri: str, owns_job: OwnsJob) -> bool:
    if pattern == ANYTHING:
        return True
    if "{own_node}" in pattern:
        # Compared as a whole: a node id may hold dots, or anything else.
        return bool(principal.node_id) and uri in [
            pattern.replace("{verb}", verb).replace("{own_node}", str(principal.node_id))
            for verb in uris.AGENT_VERBS
        ]
    bound = bind(pattern, uri)
    if bound is None:
        return False
    return "own_job" not in bound or owns_job(principal, bound["own_job"])
