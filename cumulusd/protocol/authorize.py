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

#: Role and action to URI patterns.
Table = Mapping[tuple[Role, Action], tuple[str, ...]]

_CALL, _SUBSCRIBE, _REGISTER = Action.CALL, Action.SUBSCRIBE, Action.REGISTER
_SUBMITTERS = (Role.CLIENT, Role.ADMIN)
_PEOPLE = (Role.CLIENT, Role.ADMIN, Role.VIEWER)
_OPERATORS = (Role.ADMIN, Role.VIEWER)
_ADMIN = (Role.ADMIN,)

#: The whole table. In a URI, `*` and `{any_job}` take one component, a last `**` one or more;
#: `{own_job}` a job of the principal's owner, `{own_node}` the node that the agent stands for,
#: `{verb}` one of ALL_AGENT_VERBS. Of whose job a procedure speaks is in its arguments, and judged
#: where it is answered. The daemon's own session is not asked. Nobody remote may publish, or call
#: an agent.
ROWS: tuple[tuple[Action, str, tuple[Role, ...]], ...] = (
    (_CALL, uris.PACKAGE_CHECK, _SUBMITTERS),
    (_CALL, uris.PACKAGE_PUT, _SUBMITTERS),
    (_CALL, uris.PACKAGE_COMMIT, _SUBMITTERS),
    (_CALL, uris.JOB_SUBMIT, _SUBMITTERS),
    (_CALL, uris.JOB_CANCEL, _SUBMITTERS),
    (_CALL, uris.JOB_PAUSE, _SUBMITTERS),
    (_CALL, uris.JOB_RESUME, _SUBMITTERS),
    (_CALL, uris.JOB_DELETE, _SUBMITTERS),
    (_CALL, uris.JOB_GET, _PEOPLE),
    (_CALL, uris.JOB_LIST, _PEOPLE),
    (_CALL, uris.JOB_SEARCH, _PEOPLE),
    (_CALL, uris.JOB_ATTACH, _PEOPLE),
    (_CALL, uris.JOB_RESULT, _PEOPLE),
    (_CALL, uris.JOB_CHECKPOINTS, _PEOPLE),
    (_CALL, uris.JOB_OUTPUTS, _PEOPLE),
    (_CALL, uris.JOB_OUTPUT, _PEOPLE),
    (_CALL, uris.WORKER_LIST, _PEOPLE),
    (_CALL, uris.SERVER_INFO, _PEOPLE),
    # WAMP's meta API: who is there, and what is offered and listened to.
    (_CALL, "wamp.session.count", _OPERATORS),
    (_CALL, "wamp.session.list", _OPERATORS),
    (_CALL, "wamp.session.get", _OPERATORS),
    (_CALL, "wamp.session.kill", _ADMIN),
    (_CALL, "wamp.session.kill_by_authid", _ADMIN),
    (_CALL, "wamp.session.kill_by_authrole", _ADMIN),
    (_CALL, "wamp.session.kill_all", _ADMIN),
    (_CALL, "wamp.registration.list", _OPERATORS),
    (_CALL, "wamp.registration.lookup", _OPERATORS),
    (_CALL, "wamp.registration.match", _OPERATORS),
    (_CALL, "wamp.registration.get", _OPERATORS),
    (_CALL, "wamp.registration.list_callees", _OPERATORS),
    (_CALL, "wamp.registration.count_callees", _OPERATORS),
    (_CALL, "wamp.subscription.list", _OPERATORS),
    (_CALL, "wamp.subscription.lookup", _OPERATORS),
    (_CALL, "wamp.subscription.match", _OPERATORS),
    (_CALL, "wamp.subscription.get", _OPERATORS),
    (_CALL, "wamp.subscription.list_subscribers", _OPERATORS),
    (_CALL, "wamp.subscription.count_subscribers", _OPERATORS),
    (_SUBSCRIBE, uris.job_status_topic("{own_job}"), (Role.CLIENT,)),
    (_SUBSCRIBE, uris.job_status_topic("{any_job}"), _OPERATORS),
    (_SUBSCRIBE, uris.TOPIC_JOBS, _OPERATORS),
    (_SUBSCRIBE, uris.TOPIC_WORKERS, _OPERATORS),
    (_SUBSCRIBE, "wamp.session.**", _OPERATORS),
    (_SUBSCRIBE, "wamp.subscription.**", _OPERATORS),
    (_SUBSCRIBE, "wamp.registration.**", _OPERATORS),
    (_REGISTER, uris.agent_procedure("{own_node}", "{verb}"), (Role.AGENT,)),
)


def _by_role() -> Table:
    table: dict[tuple[Role, Action], tuple[str, ...]] = {}
    for action, uri, roles in ROWS:
        for role in roles:
            table[role, action] = (*table.get((role, action), ()), uri)
    return MappingProxyType(table)


#: The same, as it is asked.
ALLOWED = _by_role()


def is_allowed(
    principal: Principal, action: Action, uri: str, owns_job: OwnsJob, table: Table = ALLOWED
) -> bool:
    """May the principal do that? `owns_job` is asked only where the table says `{own_job}`."""
    return any(
        _matches(pattern, principal, uri, owns_job)
        for pattern in table.get((principal.role, action), ())
    )


def roles_allowed(
    principal: Principal, action: Action, uri: str, owns_job: OwnsJob, table: Table = ALLOWED
) -> list[Role]:
    """The roles with which the principal's owner could do that."""
    return [
        role
        for role in Role
        if any(
            _matches(pattern, principal, uri, owns_job) for pattern in table.get((role, action), ())
        )
    ]


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
            for verb in uris.ALL_AGENT_VERBS
        ]
    bound = bind(pattern, uri)
    if bound is None:
        return False
    return "own_job" not in bound or owns_job(principal, bound["own_job"])
