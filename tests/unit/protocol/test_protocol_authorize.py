"""The whole table of permissions: every role, every action, every URI there is."""

import pytest
from wamp_peers import ADMIN, AGENT, CLIENT, VIEWER

from cumulus_wire import uris
from cumulusd.identity import DAEMON, Principal, Role
from cumulusd.protocol.authorize import ALLOWED, Action, is_allowed
from cumulusd.protocol.match import bind, is_valid_uri

PROCEDURES = [
    uris.PACKAGE_CHECK,
    uris.PACKAGE_PUT,
    uris.PACKAGE_COMMIT,
    uris.JOB_SUBMIT,
    uris.JOB_ATTACH,
    uris.JOB_GET,
    uris.JOB_LIST,
    uris.JOB_CANCEL,
    uris.JOB_RESULT,
    uris.WORKER_LIST,
    uris.SERVER_INFO,
]
READING = [
    uris.JOB_ATTACH,
    uris.JOB_GET,
    uris.JOB_LIST,
    uris.JOB_RESULT,
    uris.WORKER_LIST,
    uris.SERVER_INFO,
]
OWN_AGENT = [uris.agent_procedure("n1", verb) for verb in uris.AGENT_VERBS]
OTHER_AGENT = [uris.agent_procedure("n2", verb) for verb in uris.AGENT_VERBS]
OWN_JOB, OTHER_JOB = uris.job_status_topic("mine"), uris.job_status_topic("theirs")
TOPICS = [OWN_JOB, OTHER_JOB, uris.TOPIC_JOBS, uris.TOPIC_WORKERS]
NOT_THERE = [
    "cumulus",
    "cumulus.*",
    "cumulus.job",
    "cumulus.job.get.more",
    "cumulus.job.status",
    "cumulus.job..status",
    "cumulus.job.mine.log",
    "cumulus.jobsx",
    "cumulus.agent.n1",
    "cumulus.agent.n1.shell",
    "cumulus.agent.n1.prepare.more",
    "cumulus.agent..prepare",
    "cumulus.agent.{own_node}.prepare",
    "cumulus.server.stop",
    "cumulus.error.internal",
    "wamp.session",
    "wamp.session.kill.more",
    "wamp.testament.add",
    "com.example.anything",
    "",
]
META_READING = [
    "wamp.session.count",
    "wamp.session.get",
    "wamp.session.list",
    "wamp.registration.list",
    "wamp.subscription.match",
]
META = [*META_READING, "wamp.session.kill", "wamp.session.kill_all"]
META_TOPICS = ["wamp.session.on_join", "wamp.registration.on_create", "wamp.subscription.on_delete"]
URIS = [*PROCEDURES, *META, *META_TOPICS, *OWN_AGENT, *OTHER_AGENT, *TOPICS, *NOT_THERE]

#: role x action -> what is allowed, written out.
EXPECTED: dict[tuple[Role, Action], set[str]] = {
    (Role.CLIENT, Action.CALL): set(PROCEDURES),
    (Role.CLIENT, Action.SUBSCRIBE): {OWN_JOB},
    (Role.VIEWER, Action.CALL): {*READING, *META_READING},
    (Role.VIEWER, Action.SUBSCRIBE): {*TOPICS, *META_TOPICS},
    (Role.ADMIN, Action.CALL): {*PROCEDURES, *META},
    (Role.ADMIN, Action.SUBSCRIBE): {*TOPICS, *META_TOPICS},
    (Role.AGENT, Action.REGISTER): set(OWN_AGENT),
}
#: In the table by pattern, though no such procedure or topic is there.
BY_PATTERN = {
    (Role.CLIENT, Action.CALL): {"cumulus.job.status"},
    (Role.ADMIN, Action.CALL): {"cumulus.job.status", *META_TOPICS},
    (Role.VIEWER, Action.CALL): set(META_TOPICS[1:]),
    (Role.ADMIN, Action.SUBSCRIBE): {*META, "wamp.session.kill.more"},
    (Role.VIEWER, Action.SUBSCRIBE): {*META, "wamp.session.kill.more"},
}


def owns(principal: Principal, job_id: str) -> bool:
    return job_id == "mine"


@pytest.mark.parametrize("principal", [CLIENT, ADMIN, VIEWER, AGENT, DAEMON], ids=lambda p: p.role)
@pytest.mark.parametrize("action", list(Action))
def test_the_table(principal: Principal, action: Action) -> None:
    expected = EXPECTED.get((principal.role, action), set())
    expected = expected | BY_PATTERN.get((principal.role, action), set())
    allowed = {uri for uri in URIS if is_allowed(principal, action, uri, owns)}
    assert allowed == expected


def test_nothing_else_is_in_the_table() -> None:
    assert set(ALLOWED) == set(EXPECTED)


def test_ownership_is_asked_for_clients_only() -> None:
    asked: list[tuple[str, str]] = []

    def note(principal: Principal, job_id: str) -> bool:
        asked.append((principal.name, job_id))
        return False

    assert not is_allowed(CLIENT, Action.SUBSCRIBE, OWN_JOB, note)
    assert is_allowed(ADMIN, Action.SUBSCRIBE, OWN_JOB, note)
    assert is_allowed(VIEWER, Action.SUBSCRIBE, OWN_JOB, note)
    assert asked == [("ann", "mine")]


@pytest.mark.parametrize("node_id", [None, "", "{verb}", "n1.prepare"])
def test_an_agent_of_a_strange_node_gets_nothing_of_others(node_id: str | None) -> None:
    strange = Principal(name="x", owner="x", role=Role.AGENT, node_id=node_id)
    assert not [uri for uri in URIS if is_allowed(strange, Action.REGISTER, uri, owns)]


def test_a_node_id_with_dots_is_one_node() -> None:
    dotted = Principal(name="x", owner="x", role=Role.AGENT, node_id="gpu1.lab")
    assert is_allowed(dotted, Action.REGISTER, "cumulus.agent.gpu1.lab.prepare", owns)
    assert not is_allowed(dotted, Action.REGISTER, "cumulus.agent.gpu1.prepare", owns)


def test_patterns_are_matched_by_whole_components() -> None:
    assert bind("a.{x}.c", "a.b.c") == {"x": "b"}
    assert bind("a.*", "a.b") == {}
    for uri in ("a", "a.b.c", "ab.c", "b.a"):
        assert bind("a.*", uri) is None


@pytest.mark.parametrize(
    ("uri", "valid"),
    [
        ("cumulus.jobs", True),
        ("a", True),
        ("a.b-c_d.ä", True),
        ("", False),
        (".", False),
        ("a.", False),
        (".a", False),
        ("a..b", False),
        ("a b", False),
        ("a#b", False),
        ("a\n", False),
        ("x" * 20, True),
        ("x" * 21, False),
    ],
)
def test_valid_uris(uri: str, valid: bool) -> None:
    assert is_valid_uri(uri, 20) is valid
