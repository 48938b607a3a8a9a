"""No event reaches a session whose principal may not subscribe to just that topic, and no call a
callee that may not register just that procedure: the whole router, random tables and patterns."""

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from wamp_peers import AGENT, CLIENT, TOKENS, VIEWER, with_tokens

from cumulusd.identity import Principal, Role
from cumulusd.protocol.authorize import ALLOWED, ANYTHING, Action, Table, is_allowed
from cumulusd.protocol.codec import JSON
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.router import Router

PRINCIPALS = (CLIENT, VIEWER, AGENT)
TOKEN_OF = {principal: token for token, principal in TOKENS.items()}


class Wire:
    """A connection that keeps what is written."""

    peer_name, secure, source = "a test", True, None

    def __init__(self) -> None:
        self.written: list[list[Any]] = []

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        self.written.append(json.loads(payload))

    def write_pong(self, payload: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Peer:
    """A session of one principal."""

    def __init__(self, router: Router, principal: Principal) -> None:
        self.principal = principal
        self.wire = Wire()
        self.session = router.connected(self.wire, JSON)
        roles: dict[str, Any] = {"caller": {}, "callee": {}, "publisher": {}, "subscriber": {}}
        self.say([1, "cumulus", {"roles": roles, "authmethods": ["ticket"]}])
        self.say([5, TOKEN_OF[principal], {}])
        assert self.wire.written[-1][0] == 2, self.wire.written
        self.names: dict[int, str] = {}  #: of registrations

    def say(self, message: list[Any]) -> list[list[Any]]:
        """What is written at once in answer, or to this peer anyway."""
        before = len(self.wire.written)
        self.session.message_received(json.dumps(message).encode(), False)
        return self.wire.written[before:]


def owns(principal: Principal, job_id: str) -> bool:
    return job_id == "42"


WORDS = st.sampled_from(["cumulus", "job", "42", "421", "status", "n1"])
URIS = st.one_of(
    st.lists(WORDS, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["cumulus.job.42.status", "cumulus.job.421.status", "cumulus.jobs"]),
)
ROWS = st.one_of(
    URIS,
    st.lists(
        st.one_of(WORDS, st.sampled_from(["*", "{any_job}", "{own_job}"])), min_size=1, max_size=4
    ).map(".".join),
    st.lists(WORDS, max_size=2).map(lambda words: ".".join([*words, "**"])),
    st.just("cumulus.job.{own_job}.status"),
)
PATTERNS = st.one_of(
    URIS.map(lambda uri: (uri, "exact")),
    st.builds(lambda uri, cut: (uri[:cut], "prefix"), URIS, st.integers(0, 22)),
    st.lists(st.one_of(WORDS, st.just("")), min_size=1, max_size=4).map(
        lambda parts: (".".join(parts), "wildcard")
    ),
)
#: The daemon's own session publishes and calls; nobody else has to be let.
TABLES = st.one_of(
    st.just(dict(ALLOWED)),
    st.dictionaries(
        st.tuples(
            st.sampled_from([each.role for each in PRINCIPALS]),
            st.sampled_from([Action.SUBSCRIBE, Action.REGISTER]),
        ),
        st.lists(ROWS, min_size=1, max_size=3).map(tuple),
    ),
)
ASKED = st.lists(st.tuples(st.sampled_from([0, 1, 2]), PATTERNS), max_size=12)


def serve(table: Mapping[tuple[Role, Action], tuple[str, ...]]) -> tuple[Router, list[Peer]]:
    whole: Table = {**table, (Role.ADMIN, Action.CALL): (ANYTHING,)}
    router = Router(
        clock=Clock(),
        authenticator=with_tokens(),
        owns_job=owns,
        allowed=whole,
        limits=Limits(ping_interval_s=1e6),
    )
    return router, [Peer(router, principal) for principal in PRINCIPALS]


@settings(max_examples=250, deadline=None)
@example(
    table={(Role.VIEWER, Action.SUBSCRIBE): ("**",)},
    asked=[(1, ("", "prefix"))],
    topics=["cumulus.job.42.status"],
)
@given(TABLES, ASKED, st.lists(URIS, min_size=1, max_size=6))
def test_no_event_reaches_who_may_not_have_it(
    table: dict[tuple[Role, Action], tuple[str, ...]],
    asked: list[tuple[int, tuple[str, str]]],
    topics: list[str],
) -> None:
    router, peers = serve(table)
    for number, (who, (pattern, policy)) in enumerate(asked, start=1):
        answer, *events = peers[who].say([32, number, {"match": policy}, pattern])
        assert answer[0] in (33, 8)
        # Who may listen to WAMP's own events hears of its own subscription.
        for event in events:
            topic = event[3]["topic"]
            assert event[0] == 36 and topic.startswith("wamp.subscription.on_")
            assert is_allowed(peers[who].principal, Action.SUBSCRIBE, topic, owns, table)
    for topic in topics:
        seen = [len(peer.wire.written) for peer in peers]
        router.local().publish(topic, {"topic": topic})
        for peer, before in zip(peers, seen, strict=True):
            for event in peer.wire.written[before:]:
                assert event[0] == 36 and event[5] == {"topic": topic}
                assert event[3].get("topic", topic) == topic
                assert is_allowed(peer.principal, Action.SUBSCRIBE, topic, owns, table)


@settings(max_examples=250, deadline=None)
@given(TABLES, ASKED, st.lists(URIS, min_size=1, max_size=6))
def test_no_call_reaches_who_may_not_offer_it(
    table: dict[tuple[Role, Action], tuple[str, ...]],
    asked: list[tuple[int, tuple[str, str]]],
    procedures: list[str],
) -> None:
    router, peers = serve(table)
    caller = Peer(router, TOKENS["admin-token"])
    for number, (who, (pattern, policy)) in enumerate(asked, start=1):
        (answer,) = peers[who].say([64, number, {"match": policy}, pattern])
        assert answer[0] in (65, 8)
    for number, procedure in enumerate(procedures, start=1):
        seen = [len(peer.wire.written) for peer in peers]
        caller.say([48, number, {}, procedure])
        reached = [
            peer
            for peer, before in zip(peers, seen, strict=True)
            if any(message[0] == 68 for message in peer.wire.written[before:])
        ]
        assert len(reached) <= 1
        for peer in reached:
            assert is_allowed(peer.principal, Action.REGISTER, procedure, owns, table)


def test_the_test_would_see_it() -> None:
    """Events and calls do pass under patterns, in the product's table and in others."""
    router, (client, viewer, agent) = serve(ALLOWED)
    (answer,) = viewer.say([32, 1, {"match": "wildcard"}, "cumulus.job..status"])
    assert answer[0] == 33
    (answer,) = client.say([32, 1, {"match": "wildcard"}, "cumulus.job.42.status"])
    assert answer[0] == 33
    (answer,) = client.say([32, 2, {"match": "prefix"}, "cumulus.job.42"])
    assert answer[:2] == [8, 32] and answer[4] == "wamp.error.not_authorized"
    for topic, to_client in [("cumulus.job.42.status", 1), ("cumulus.job.421.status", 0)]:
        before = len(client.wire.written), len(viewer.wire.written)
        router.local().publish(topic, {"topic": topic})
        assert len(client.wire.written) - before[0] == to_client
        assert len(viewer.wire.written) - before[1] == 1
    router, (client, viewer, agent) = serve({(Role.AGENT, Action.REGISTER): ("own.**",)})
    (answer,) = agent.say([64, 1, {"match": "prefix"}, "own."])
    assert answer[0] == 65
    Peer(router, TOKENS["admin-token"]).say([48, 1, {}, "own.thing"])
    assert agent.wire.written[-1][0] == 68
    assert agent.wire.written[-1][3] == {"procedure": "own.thing"}
