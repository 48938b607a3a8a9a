"""How rows of the table match. The table itself: tests/security/test_table.py."""

import pytest

from cumulusd.identity import Principal, Role
from cumulusd.protocol.authorize import Action, is_allowed, roles_allowed
from cumulusd.protocol.match import bind, is_valid_uri


def owns(principal: Principal, job_id: str) -> bool:
    return job_id == "mine"


def test_a_node_id_with_dots_is_one_node() -> None:
    dotted = Principal(name="x", owner="x", role=Role.AGENT, node_id="gpu1.lab")
    assert is_allowed(dotted, Action.REGISTER, "cumulus.agent.gpu1.lab.prepare", owns)
    assert not is_allowed(dotted, Action.REGISTER, "cumulus.agent.gpu1.prepare", owns)


def test_who_is_refused_is_told_which_roles_may() -> None:
    viewer = Principal(name="x", owner="x", role=Role.VIEWER)
    submitters = [Role.CLIENT, Role.ADMIN]
    assert roles_allowed(viewer, Action.CALL, "cumulus.job.submit", owns) == submitters
    topic = "cumulus.job.{}.status"
    assert Role.CLIENT in roles_allowed(viewer, Action.SUBSCRIBE, topic.format("mine"), owns)
    assert Role.CLIENT not in roles_allowed(viewer, Action.SUBSCRIBE, topic.format("other"), owns)
    assert roles_allowed(viewer, Action.PUBLISH, "cumulus.jobs", owns) == []


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
