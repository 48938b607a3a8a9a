"""The broker against a slow and obvious model that writes what should go over the wire."""

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_protocol_patterns import matches

from cumulusd.protocol.broker import Broker
from cumulusd.protocol.messages import Effect, Member, MetaEvent, Send, keep_disclosure, wamp

MEMBERS = {
    number: Member(
        session_id=number,
        authid=f"name{number % 3}",
        authrole="admin" if number % 2 else "client",
        may_disclose=number != 4,
    )
    for number in (1, 2, 3, 4)
}
MAX_SUBSCRIPTIONS = 4

SESSIONS = st.sampled_from(sorted(MEMBERS))
NUMBERS = st.integers(1, 9)
PATTERNS = st.sampled_from(
    [
        *(("job.4", "exact"), ("job.42", "exact"), ("job.4", "prefix"), ("", "prefix")),
        *(("job.", "wildcard"), ("", "wildcard"), (".42", "wildcard"), ("job.42", "wildcard")),
    ]
)
TOPICS = st.sampled_from(["job.4", "job.42", "job.42.log", "jobs", "a.42"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "acknowledge": st.booleans(),
        "exclude_me": st.booleans(),
        "exclude": st.lists(st.integers(1, 5), max_size=3),
        "exclude_authid": st.lists(st.sampled_from(["name0", "name1", "x"]), max_size=2),
        "exclude_authrole": st.lists(st.sampled_from(["admin", "x"]), max_size=2),
        "eligible": st.lists(st.integers(1, 5), max_size=4),
        "eligible_authid": st.lists(st.sampled_from(["name0", "name1", "name2"]), max_size=3),
        "eligible_authrole": st.lists(st.sampled_from(["admin", "client"]), max_size=2),
    },
)


@attrs.define
class Kept:
    number: int
    uri: str
    policy: str
    sessions: list[int]


def has_it(member: Member, publisher: int, options: dict[str, Any]) -> bool:
    """WAMP's six statements, and publisher exclusion."""
    if member.session_id == publisher and options.get("exclude_me", True):
        return False
    what = {"": member.session_id, "_authid": member.authid, "_authrole": member.authrole}
    for suffix, value in what.items():
        if f"eligible{suffix}" in options and value not in options[f"eligible{suffix}"]:
            return False
        if f"exclude{suffix}" in options and value in options[f"exclude{suffix}"]:
            return False
    return True


def raw(message: Any) -> list[Any]:
    """A message as it goes over the wire; of an ERROR not its text."""
    fields: list[Any] = message.marshal()
    return fields[:5] if fields[0] == 8 else fields


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.publications = 0
        self.kept: list[Kept] = []
        self.last = 0
        self.broker = Broker(
            max_subscriptions=MAX_SUBSCRIPTIONS,
            now=lambda: 0.0,
            new_publication_id=self.next_publication,
        )
        for each in MEMBERS.values():
            self.broker.join(each)

    def next_publication(self) -> int:
        self.publications += 1
        return self.publications

    def check(self, effects: list[Effect], expected: list[Any], topics: list[str]) -> None:
        sent = [(e.session_id, raw(e.message)) for e in effects if isinstance(e, Send)]
        assert sorted(sent, key=repr) == sorted(expected, key=repr)
        told = [e.topic for e in effects if isinstance(e, MetaEvent)]
        assert told == [f"wamp.subscription.on_{each}" for each in topics]

    @rule(session=SESSIONS, pattern=PATTERNS)
    def subscribe(self, session: int, pattern: tuple[str, str]) -> None:
        effects = self.broker.subscribe(session, wamp.Subscribe(9, pattern[0], match=pattern[1]))
        mine = [each for each in self.kept if session in each.sessions]
        found = [each for each in self.kept if (each.uri, each.policy) == pattern]
        if found and found[0] in mine:
            self.check(effects, [(session, [33, 9, found[0].number])], [])
        elif len(mine) >= MAX_SUBSCRIPTIONS:
            refusal = [8, 32, 9, {}, "cumulus.error.too_many"]
            self.check(effects, [(session, refusal)], [])
        elif found:
            found[0].sessions.append(session)
            self.check(effects, [(session, [33, 9, found[0].number])], ["subscribe"])
        else:
            self.last += 1
            self.kept.append(Kept(self.last, *pattern, [session]))
            self.check(effects, [(session, [33, 9, self.last])], ["create", "subscribe"])

    def drop(self, kept: Kept, session: int) -> list[str]:
        kept.sessions.remove(session)
        if kept.sessions:
            return ["unsubscribe"]
        self.kept.remove(kept)
        return ["unsubscribe", "delete"]

    @rule(session=SESSIONS, number=NUMBERS)
    def unsubscribe(self, session: int, number: int) -> None:
        effects = self.broker.unsubscribe(session, wamp.Unsubscribe(9, number))
        for each in self.kept:
            if each.number == number and session in each.sessions:
                self.check(effects, [(session, [35, 9])], self.drop(each, session))
                return
        refusal = [8, 34, 9, {}, "wamp.error.no_such_subscription"]
        self.check(effects, [(session, refusal)], [])

    @rule(session=SESSIONS)
    def leave_and_come_again(self, session: int) -> None:
        effects = self.broker.leave(session)
        topics: list[str] = []
        for each in list(self.kept):
            if session in each.sessions:
                topics += self.drop(each, session)
        assert all(isinstance(effect, MetaEvent) for effect in effects)
        assert len(effects) == len(topics)
        assert self.broker.leave(session) == []
        self.broker.join(MEMBERS[session])

    @rule(session=SESSIONS, topic=TOPICS, options=OPTIONS, discloses=st.booleans())
    def publish(self, session: int, topic: str, options: dict[str, Any], discloses: bool) -> None:
        message = wamp.Publish(9, topic, args=["x"], **options)
        keep_disclosure(message, {"disclose_me": discloses})
        effects = self.broker.publish(session, message)
        expected: list[Any] = []
        if discloses and not MEMBERS[session].may_disclose:
            uri = "wamp.error.option_disallowed.disclose_me"
            if options.get("acknowledge"):
                expected = [(session, [8, 16, 9, {}, uri])]
            self.check(effects, expected, [])
            return
        for each in self.kept:
            if not matches(each.uri, each.policy, topic):
                continue
            details: dict[str, Any] = {}
            if discloses:
                details["publisher"] = session
                details["publisher_authid"] = MEMBERS[session].authid
                details["publisher_authrole"] = MEMBERS[session].authrole
            if each.policy != "exact":
                details["topic"] = topic
            expected += [
                (one, [36, each.number, self.publications, details, ["x"]])
                for one in each.sessions
                if has_it(MEMBERS[one], session, options)
            ]
        if options.get("acknowledge"):
            expected.append((session, [17, 9, self.publications]))
        self.check(effects, expected, [])

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.broker.topics == len(self.kept) == len(self.broker.subscriptions)
        for each in self.kept:
            subscription = self.broker.subscription(each.number)
            assert subscription is not None
            assert list(subscription.subscribers) == each.sessions


TestBroker = BrokerMachine.TestCase
TestBroker.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
