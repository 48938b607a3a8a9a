"""Who may do what over WAMP: the full product of role, action and URI, against a matrix by hand.

The URIs are those that the wire knows (`cumulus_wire.uris`, the meta API): one that has no line in
the matrix fails, as does a line of what isn't there. Judged once as a pure function, and once by
the real router for real sessions.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions

from cumulus_wire import uris
from cumulusd.identity import DAEMON, Authenticator, Principal, Role
from cumulusd.protocol.authorize import ALLOWED, ROWS, Action, is_allowed, is_pattern_allowed
from cumulusd.protocol.meta import MetaApi
from tests.unit.protocol.wamp_peers import (
    ADMIN,
    AGENT,
    CLIENT,
    TOKENS,
    VIEWER,
    nothing,
    reactor,
    serving,
    with_tokens,
)

ROLES = {"client": CLIENT, "admin": ADMIN, "viewer": VIEWER, "agent": AGENT}
TOKEN_OF = {principal: token for token, principal in TOKENS.items()}

#: Everybody's permissions; what has no line here nobody may. OWN: a job of the client's owner, the
#: node that the agent stands for; OTHER: somebody else's. For an admin and a viewer the same.
MATRIX = """
           uri                                    client  admin  viewer  agent
call       cumulus.package.check                  yes     yes    -       -
call       cumulus.package.put                    yes     yes    -       -
call       cumulus.package.commit                 yes     yes    -       -
call       cumulus.job.submit                     yes     yes    -       -
call       cumulus.job.cancel                     yes     yes    -       -
call       cumulus.job.pause                      yes     yes    -       -
call       cumulus.job.resume                     yes     yes    -       -
call       cumulus.job.delete                     yes     yes    -       -
call       cumulus.job.get                        yes     yes    yes     -
call       cumulus.job.list                       yes     yes    yes     -
call       cumulus.job.search                     yes     yes    yes     -
call       cumulus.job.attach                     yes     yes    yes     -
call       cumulus.job.result                     yes     yes    yes     -
call       cumulus.job.checkpoints                yes     yes    yes     -
call       cumulus.job.outputs                    yes     yes    yes     -
call       cumulus.job.output                     yes     yes    yes     -
call       cumulus.worker.list                    yes     yes    yes     -
call       cumulus.server.info                    yes     yes    yes     -
call       wamp.session.count                     -       yes    yes     -
call       wamp.session.list                      -       yes    yes     -
call       wamp.session.get                       -       yes    yes     -
call       wamp.session.kill                      -       yes    -       -
call       wamp.session.kill_by_authid            -       yes    -       -
call       wamp.session.kill_by_authrole          -       yes    -       -
call       wamp.session.kill_all                  -       yes    -       -
call       wamp.registration.list                 -       yes    yes     -
call       wamp.registration.lookup               -       yes    yes     -
call       wamp.registration.match                -       yes    yes     -
call       wamp.registration.get                  -       yes    yes     -
call       wamp.registration.list_callees         -       yes    yes     -
call       wamp.registration.count_callees        -       yes    yes     -
call       wamp.subscription.list                 -       yes    yes     -
call       wamp.subscription.lookup               -       yes    yes     -
call       wamp.subscription.match                -       yes    yes     -
call       wamp.subscription.get                  -       yes    yes     -
call       wamp.subscription.list_subscribers     -       yes    yes     -
call       wamp.subscription.count_subscribers    -       yes    yes     -
subscribe  cumulus.job.OWN.status                 yes     yes    yes     -
subscribe  cumulus.job.OTHER.status               -       yes    yes     -
subscribe  cumulus.jobs                           -       yes    yes     -
subscribe  cumulus.workers                        -       yes    yes     -
subscribe  wamp.session.on_join                   -       yes    yes     -
subscribe  wamp.session.on_leave                  -       yes    yes     -
subscribe  wamp.registration.on_create            -       yes    yes     -
subscribe  wamp.registration.on_register          -       yes    yes     -
subscribe  wamp.registration.on_unregister        -       yes    yes     -
subscribe  wamp.registration.on_delete            -       yes    yes     -
subscribe  wamp.subscription.on_create            -       yes    yes     -
subscribe  wamp.subscription.on_subscribe         -       yes    yes     -
subscribe  wamp.subscription.on_unsubscribe       -       yes    yes     -
subscribe  wamp.subscription.on_delete            -       yes    yes     -
register   cumulus.agent.OWN.prepare              -       -      -       yes
register   cumulus.agent.OWN.release              -       -      -       yes
register   cumulus.agent.OWN.partitions           -       -      -       yes
register   cumulus.agent.OWN.devices              -       -      -       yes
register   cumulus.agent.OWN.journals             -       -      -       yes
register   cumulus.agent.OWN.command              -       -      -       yes
register   cumulus.agent.OWN.metrics              -       -      -       yes
"""
#: Known to the wire, and nobody's: the daemon alone calls agents.
NOBODYS = [f"cumulus.agent.OTHER.{verb}" for verb in uris.ALL_AGENT_VERBS]
#: On nobody's list.
STRANGE = [
    "cumulus",
    "cumulus.job",
    "cumulus.jobsx",
    "cumulus.job.get.more",
    "cumulus.job.getx",
    "cumulus.job.status",
    "cumulus.job.OWN.log",
    "cumulus.job.OWN.status.more",
    "cumulus.package.delete",
    "cumulus.worker.drain",
    "cumulus.server.stop",
    "cumulus.agent.n1",
    "cumulus.agent.n1.shell",
    "cumulus.agent.n1.prepare.more",
    "cumulus.agent.x.n1.prepare",
    "cumulus.error.internal",
    "Cumulus.job.list",
    "wamp",
    "wamp.session.kill.more",
    "wamp.testament.add",
    "wamp.error.not_authorized",
    "com.example.anything",
]
#: Subscribed to with a whole family by its row's `**`, though there is no such topic.
UNDER_A_FAMILY = ("wamp.session.", "wamp.registration.", "wamp.subscription.")


def rows() -> Iterator[tuple[Action, str, dict[str, bool]]]:
    header, *lines = MATRIX.strip().splitlines()
    roles = header.split()[1:]
    for line in lines:
        action, uri, *marks = line.split()
        assert set(marks) <= {"yes", "-"} and len(marks) == len(roles)
        yield (
            Action(action),
            uri,
            {role: mark == "yes" for role, mark in zip(roles, marks, strict=True)},
        )


EXPECTED = {(action, uri): allowed for action, uri, allowed in rows()}


def wire_uris() -> set[str]:
    """All that the wire knows: constants, topics and procedures of a job or node, the meta API."""
    constants = {
        value
        for name, value in vars(uris).items()
        if name.isupper() and isinstance(value, str) and name not in ("REALM", "ERROR_PREFIX")
    }
    unasked: Any = None
    meta = MetaApi(unasked, unasked, unasked)
    return {
        *constants,
        *(uris.job_status_topic(job) for job in ("OWN", "OTHER")),
        *(
            uris.agent_procedure(node, verb)
            for node in ("OWN", "OTHER")
            for verb in uris.ALL_AGENT_VERBS
        ),
        *meta.procedures,
    }


EVERY_URI = sorted(wire_uris() | {uri for _, uri in EXPECTED} | set(NOBODYS) | set(STRANGE))


def real(uri: str) -> str:
    """The URI with the names that the sessions of this test have."""
    own, other = ("n1", "n2") if ".agent." in uri else ("mine", "theirs")
    return uri.replace(".OWN.", f".{own}.").replace(".OTHER.", f".{other}.")


def expected(role: str, action: Action, uri: str) -> bool:
    known = EXPECTED.get((action, uri))
    if known is None and action is Action.SUBSCRIBE and uri.startswith(UNDER_A_FAMILY):
        return role in ("admin", "viewer")
    return known is not None and known[role]


def owns(principal: Principal, job_id: str) -> bool:
    return principal.owner == "ann" and job_id == "mine"


# The matrix itself


def test_every_uri_of_the_wire_has_its_line() -> None:
    named = {uri for _, uri in EXPECTED} | set(NOBODYS)
    assert wire_uris() - named == set(), "say in MATRIX who may do what with it"


def test_nothing_else_has_one() -> None:
    meta_topics = {uri for action, uri in EXPECTED if action is Action.SUBSCRIBE and "wamp." in uri}
    assert {uri for _, uri in EXPECTED} - wire_uris() == meta_topics


def test_each_public_function_of_the_wires_names_is_in_the_product() -> None:
    functions = {name for name, value in vars(uris).items() if callable(value)}
    assert functions == {"job_status_topic", "agent_procedure"}, "put its URIs into wire_uris()"


def test_every_action_and_role_is_in_the_product() -> None:
    assert {action for action, _ in EXPECTED} == set(Action) - {Action.PUBLISH}
    assert {Role(role) for role in ROLES} == set(Role) - {Role.DAEMON}
    assert {role for _, _, allowed in ROWS for role in allowed} <= set(Role) - {Role.DAEMON}


# As a pure function


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", Action)
def test_the_full_product(role: str, action: Action) -> None:
    may = {uri for uri in EVERY_URI if is_allowed(ROLES[role], action, real(uri), owns)}
    assert may == {uri for uri in EVERY_URI if expected(role, action, uri)}


def test_the_daemons_role_is_in_no_row() -> None:
    """It isn't asked; and were a token to get its role, that would open nothing."""
    for action in Action:
        assert not [uri for uri in EVERY_URI if is_allowed(DAEMON, action, real(uri), owns)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("policy", ["prefix", "wildcard"])
@pytest.mark.parametrize("action", [Action.SUBSCRIBE, Action.REGISTER])
def test_no_pattern_is_a_way_round(role: str, policy: str, action: Action) -> None:
    """Whatever pattern is allowed matches nothing that is denied. Patterns: of each URI all its
    beginnings, and all ways to leave components open."""
    who = ROLES[role]
    patterns: set[str] = {""}
    for uri in map(real, EVERY_URI):
        parts = uri.split(".")
        if policy == "prefix":
            patterns |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
            patterns |= {".".join(parts[:count]) + "." for count in range(1, len(parts))}
        else:
            for mask in range(1 << len(parts)):
                open_parts = ["" if mask >> place & 1 else part for place, part in enumerate(parts)]
                patterns.add(".".join(open_parts))
    for pattern in patterns:
        if not is_pattern_allowed(who, action, pattern, policy, owns):
            continue
        for uri in map(real, EVERY_URI):
            if matches(pattern, policy, uri):
                assert is_allowed(who, action, uri, owns), (pattern, uri)
    if role == "client":
        for pattern in ("cumulus.job.", "cumulus.job..status", "cumulus.", ""):
            assert not is_pattern_allowed(who, action, pattern, policy, owns)


def matches(pattern: str, policy: str, uri: str) -> bool:
    if policy == "prefix":
        return uri.startswith(pattern)
    wanted, given = pattern.split("."), uri.split(".")
    return len(wanted) == len(given) and all(
        want in ("", have) for want, have in zip(wanted, given, strict=True)
    )


@pytest.mark.parametrize("node_id", [None, "", "{verb}", "{own_node}", "*", "n1.prepare", "x.n1"])
def test_an_agent_of_a_strange_node_is_only_itself(node_id: str | None) -> None:
    strange = Principal(name="x", owner="x", role=Role.AGENT, node_id=node_id)
    known = {uri for uri in map(real, EVERY_URI) if "agent.x.n1" not in uri}
    assert not [uri for uri in known if is_allowed(strange, Action.REGISTER, uri, owns)]


def test_who_owns_a_job_is_asked_for_clients_alone() -> None:
    asked: list[str] = []

    def note(principal: Principal, job_id: str) -> bool:
        asked.append(principal.name)
        return False

    for who in ROLES.values():
        for uri in EVERY_URI:
            for action in Action:
                is_allowed(who, action, real(uri), note)
    assert set(asked) == {"ann"}


# By the real router


async def attempt(session: Any, action: Action, uri: str) -> bool:
    """Does the router let the session do that? What becomes of it doesn't matter."""
    try:
        match action:
            case Action.CALL:
                await session.call(uri).addTimeout(10, reactor)
            case Action.REGISTER:
                registration = await session.register(lambda: None, uri).addTimeout(10, reactor)
                await registration.unregister().addTimeout(10, reactor)
            case Action.SUBSCRIBE:
                subscription = await session.subscribe(lambda: None, uri).addTimeout(10, reactor)
                await subscription.unsubscribe().addTimeout(10, reactor)
            case Action.PUBLISH:
                options = PublishOptions(acknowledge=True)
                await session.publish(uri, options=options).addTimeout(10, reactor)
    except ApplicationError as error:
        # `wamp.` is the router's own, whoever asks: that is told as an invalid URI.
        return error.error not in ("wamp.error.not_authorized", "wamp.error.invalid_uri")
    return True


@pytest.mark.parametrize("role", ROLES)
@pytest_twisted.ensureDeferred
async def test_the_full_product_by_the_real_router(role: str) -> None:
    authenticator: Authenticator = with_tokens()
    async with serving(authenticator, owns_job=owns) as server:
        for uri in EVERY_URI:
            if not uri.startswith("wamp.") and ".OWN." not in uri and uri != "cumulus":
                server.router.local().register(real(uri), nothing)
        session = await server.join(TOKEN_OF[ROLES[role]])
        for action in Action:
            may = {uri for uri in EVERY_URI if await attempt(session, action, real(uri))}
            assert may == {uri for uri in EVERY_URI if expected(role, action, uri)}, action


def test_the_table_that_is_asked_is_the_table_that_is_read() -> None:
    listed = {(role, action, uri) for action, uri, roles in ROWS for role in roles}
    assert listed == {
        (role, action, uri) for (role, action), some in ALLOWED.items() for uri in some
    }
