"""No pattern is a way round the table of permissions."""

from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocol_patterns import matches
from wamp_peers import ADMIN, AGENT, CLIENT, VIEWER

from cumulusd.identity import Principal, Role
from cumulusd.protocol.authorize import (
    ANYTHING,
    Action,
    is_allowed,
    is_pattern_allowed,
)
from cumulusd.protocol.match import bind, covers
from cumulusd.protocol.patterns import PREFIX, WILDCARD


def owns(principal: Principal, job_id: str) -> bool:
    return job_id == "42"


def may(principal: Principal, pattern: str, policy: str, action: Action = Action.SUBSCRIBE) -> bool:
    return is_pattern_allowed(principal, action, pattern, policy, owns)


@pytest.mark.parametrize(
    ("pattern", "policy"),
    [
        ("cumulus.job.42", PREFIX),  # takes in cumulus.job.421.status
        ("cumulus.job.42.", PREFIX),
        ("cumulus.job.42.status", PREFIX),
        ("cumulus.job.", PREFIX),
        ("", PREFIX),
        ("cumulus.job..status", WILDCARD),
        ("..42.status", WILDCARD),
        ("...", WILDCARD),
        ("cumulus.job.421.status", WILDCARD),
        ("cumulus.jobs", WILDCARD),
        ("cumulus.", WILDCARD),
        ("wamp.session.", PREFIX),
    ],
)
def test_a_client_listens_to_no_more_than_its_own(pattern: str, policy: str) -> None:
    assert not may(CLIENT, pattern, policy)


def test_a_pattern_of_ones_own_alone_is_allowed() -> None:
    assert may(CLIENT, "cumulus.job.42.status", WILDCARD)


@pytest.mark.parametrize("principal", [ADMIN, VIEWER])
def test_those_who_see_all_jobs_may_use_patterns_for_them(principal: Principal) -> None:
    assert may(principal, "cumulus.job..status", WILDCARD)
    assert may(principal, "wamp.session.", PREFIX)
    assert may(principal, "wamp.registration.on_", PREFIX)
    for pattern, policy in [
        ("cumulus.job..log", WILDCARD),
        ("cumulus..42.status", WILDCARD),
        ("cumulus.job.", PREFIX),
        ("cumulus.jobs", PREFIX),
        ("wamp.session", PREFIX),
        ("wamp.", PREFIX),
        ("wamp..on_join", WILDCARD),
    ]:
        assert not may(principal, pattern, policy), pattern


@pytest.mark.parametrize(
    ("pattern", "policy"),
    [
        ("cumulus.agent.n1.", PREFIX),
        ("cumulus.agent.n1.prepare", PREFIX),
        ("cumulus.agent.n1.", WILDCARD),
        ("cumulus.agent..prepare", WILDCARD),
        ("cumulus.", PREFIX),
        ("...", WILDCARD),
    ],
)
def test_an_agent_registers_procedure_by_procedure(pattern: str, policy: str) -> None:
    assert not may(AGENT, pattern, policy, Action.REGISTER)


def test_nothing_that_the_table_does_not_name() -> None:
    for action in (Action.PUBLISH, Action.REGISTER):
        assert not may(CLIENT, "", PREFIX, action)
        assert not may(ADMIN, "", PREFIX, action)


def test_a_router_open_to_all_is() -> None:
    table = MappingProxyType({(Role.CLIENT, Action.SUBSCRIBE): (ANYTHING,)})
    assert is_pattern_allowed(CLIENT, Action.SUBSCRIBE, "", PREFIX, owns, table)


WORDS = st.sampled_from(["a", "b", "42", "421", "n1", "status"])
TOPICS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
ROWS = st.builds(
    lambda parts, tail: ".".join([*parts, *tail]),
    st.lists(
        st.one_of(WORDS, st.sampled_from(["*", "{any_job}", "{own_job}", "{own_node}", "{verb}"])),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([[], ["**"]]),
)
WILDCARDS = st.lists(st.one_of(WORDS, st.just("")), min_size=1, max_size=5).map(".".join)
PREFIXES = st.builds(lambda uri, cut: uri[:cut], TOPICS, st.integers(0, 12))
PATTERNS = st.one_of(
    WILDCARDS.map(lambda each: (each, WILDCARD)), PREFIXES.map(lambda each: (each, PREFIX))
)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(ROWS, max_size=4),
    st.sampled_from([CLIENT, AGENT]),
    PATTERNS,
    st.lists(TOPICS, min_size=1, max_size=12),
)
def test_whatever_an_allowed_pattern_matches_is_allowed_by_itself(
    rows: list[str], principal: Principal, pattern: tuple[str, str], topics: list[str]
) -> None:
    table = {(principal.role, Action.SUBSCRIBE): tuple(rows)}
    if not is_pattern_allowed(principal, Action.SUBSCRIBE, *pattern, owns, table):
        return
    text, policy = pattern
    # What matches for certain, beside what may by chance.
    filled = ".".join(part or "421" for part in text.split("."))
    for topic in [*topics, filled, f"{text}1", f"{text}.421", f"{text}a.b.42"]:
        if "" not in topic.split(".") and matches(text, policy, topic):
            assert is_allowed(principal, Action.SUBSCRIBE, topic, owns, table), (topic, rows)


@settings(max_examples=500, deadline=None)
@given(ROWS.filter(lambda row: "{" not in row), WILDCARDS)
def test_a_wildcard_is_covered_whenever_all_it_matches_is(row: str, pattern: str) -> None:
    """Of a single row, and words enough, covering is just that: nothing is denied needlessly."""
    new = "of-no-row"
    hardest = ".".join(part or new for part in pattern.split("."))
    covered = covers(row, pattern, WILDCARD, lambda name, value: False)
    assert covered == (bind(row, hardest) is not None)


def test_an_open_end_takes_one_component_or_more() -> None:
    assert bind("a.**", "a.b") == {}
    assert bind("a.**", "a.b.c") == {}
    assert bind("a.{x}.**", "a.b.c") == {"x": "b"}
    for uri in ("a", "b.a", "a.", "a..b", "ab.c"):
        assert bind("a.**", uri) is None
