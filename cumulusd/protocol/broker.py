"""The broker, without I/O: who listens to which topic. A message in, effects out.

An event is one message object for all subscribers of a subscription, so that it is serialised once
per codec. A session with several subscriptions that match has it once under each, with the same
publication id.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from cumulusd.errors import TooMany
from cumulusd.protocol import messages
from cumulusd.protocol.messages import (
    Effect,
    Member,
    Message,
    MetaEvent,
    Send,
    error_reply,
    wamp,
)
from cumulusd.protocol.patterns import EXACT, WILDCARD, Patterns

_SUBSCRIBE = wamp.Subscribe.MESSAGE_TYPE
_UNSUBSCRIBE = wamp.Unsubscribe.MESSAGE_TYPE
_PUBLISH = wamp.Publish.MESSAGE_TYPE


@attrs.define(kw_only=True)
class Subscription:
    """One topic or pattern that somebody listens to."""

    subscription_id: int
    uri: str
    policy: str
    created_at: float
    #: Session ids in the order of their subscription (a dict is an ordered set).
    subscribers: dict[int, None] = attrs.field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """WAMP's SubscriptionDetails."""
        return {
            "id": self.subscription_id,
            "created": messages.iso_time(self.created_at),
            "uri": self.uri,
            "match": self.policy,
        }


def _random_id() -> int:
    """For publications, whose ids WAMP wants random among all ids there are."""
    return random.getrandbits(53) + 1


class Broker:
    """Topics of one realm. A subscription lives while somebody listens to it."""

    def __init__(
        self,
        *,
        max_subscriptions: int,
        now: Callable[[], float],
        new_publication_id: Callable[[], int] = _random_id,
    ) -> None:
        """The bound is per session. `now`: unix seconds."""
        self._max_subscriptions = max_subscriptions
        self._now = now
        self._new_publication_id = new_publication_id
        self._members: dict[int, Member] = {}
        self._by_id: dict[int, Subscription] = {}
        self._subscriptions: Patterns[Subscription] = Patterns()
        self._by_session: dict[int, dict[int, Subscription]] = {}
        self._last_subscription = 0

    @property
    def topics(self) -> int:
        """Topics and patterns somebody listens to."""
        return len(self._by_id)

    @property
    def subscriptions(self) -> Patterns[Subscription]:
        """All there are, to look at."""
        return self._subscriptions

    def subscription(self, subscription_id: int) -> Subscription | None:
        """The one of that id."""
        return self._by_id.get(subscription_id)

    def join(self, member: Member) -> None:
        """A session takes part."""
        self._members[member.session_id] = member

    def leave(self, session_id: int) -> list[Effect]:
        """A session is gone, and its subscriptions with it."""
        self._members.pop(session_id, None)
        effects: list[Effect] = []
        for subscription in self._by_session.pop(session_id, {}).values():
            effects += self._drop(subscription, session_id)
        return effects

    def subscribe(self, session_id: int, message: Message) -> list[Effect]:
        """SUBSCRIBE: exact, prefix or wildcard. Subscribing twice gives the same subscription."""
        uri: str = message.topic
        policy: str = message.match or EXACT
        if message.get_retained:
            error = wamp.Error(
                _SUBSCRIBE,
                message.request,
                messages.OPTION_NOT_ALLOWED,
                args=["no event is retained: no get_retained"],
            )
            return [Send(session_id, error)]
        mine = self._by_session.get(session_id, {})
        subscription = self._subscriptions.get(uri, policy)
        if subscription is not None and subscription.subscription_id in mine:
            return [
                Send(session_id, wamp.Subscribed(message.request, subscription.subscription_id))
            ]
        if len(mine) >= self._max_subscriptions:
            full = TooMany(
                f"{uri} not subscribed: at most {self._max_subscriptions} a session "
                "(router.max_subscriptions)",
                hint="unsubscribe from what has ended, or subscribe to a pattern",
            )
            return [Send(session_id, error_reply(_SUBSCRIBE, message.request, full))]
        changes: list[Effect] = []
        if subscription is None:
            self._last_subscription += 1
            subscription = Subscription(
                subscription_id=self._last_subscription,
                uri=uri,
                policy=policy,
                created_at=self._now(),
            )
            self._by_id[subscription.subscription_id] = subscription
            self._subscriptions.put(uri, policy, subscription)
            details = subscription.as_dict()
            changes.append(MetaEvent("wamp.subscription.on_create", [session_id, details]))
        number = subscription.subscription_id
        subscription.subscribers[session_id] = None
        self._by_session.setdefault(session_id, {})[number] = subscription
        changes.append(MetaEvent("wamp.subscription.on_subscribe", [session_id, number]))
        return [Send(session_id, wamp.Subscribed(message.request, number)), *changes]

    def unsubscribe(self, session_id: int, message: Message) -> list[Effect]:
        """UNSUBSCRIBE."""
        subscription = self._by_session.get(session_id, {}).pop(message.subscription, None)
        if subscription is None:
            text = f"this session has no subscription {message.subscription}"
            error = wamp.Error(
                _UNSUBSCRIBE, message.request, messages.NO_SUCH_SUBSCRIPTION, args=[text]
            )
            return [Send(session_id, error)]
        changes = self._drop(subscription, session_id)
        return [Send(session_id, wamp.Unsubscribed(message.request)), *changes]

    def end_topic(self, uri: str) -> tuple[list[Subscription], list[Effect]]:
        """The topic is over: nobody listens to it any more. The subscriptions that it had, and what
        follows. Who may listen to one of that name later is judged anew; patterns stay, but for a
        wildcard without a gap: it means this topic alone."""
        over: list[Subscription] = []
        effects: list[Effect] = []
        for policy in (EXACT, WILDCARD):
            subscription = self._subscriptions.get(uri, policy)
            if subscription is None:
                continue
            ended = attrs.evolve(subscription, subscribers=dict(subscription.subscribers))
            for session_id in ended.subscribers:
                del self._by_session[session_id][ended.subscription_id]
                effects += self._drop(subscription, session_id)
            over.append(ended)
        return over, effects

    def publish(self, session_id: int, message: Message) -> list[Effect]:
        """PUBLISH: an EVENT under each subscription that matches, to those that the options let
        have it; to the publisher if `exclude_me` is false."""
        refusal = self._refusal(session_id, message)
        if refusal is not None:
            return [Send(session_id, refusal)] if message.acknowledge else []
        publication = self._new_publication_id()
        disclosed: dict[str, Any] = {}
        if messages.asks_disclosure(message):
            publisher = self._members[session_id]
            disclosed = {
                "publisher": session_id,
                "publisher_authid": publisher.authid,
                "publisher_authrole": publisher.authrole,
            }
        effects: list[Effect] = []
        for subscription in self._subscriptions.matching(message.topic):
            event = wamp.Event(
                subscription.subscription_id,
                publication,
                args=message.args,
                kwargs=message.kwargs,
                topic=None if subscription.policy == EXACT else message.topic,
                **disclosed,
            )
            excluded = None if message.exclude_me is False else session_id
            receivers = self._chosen(message, subscription.subscribers)
            effects += [Send(each, event) for each in receivers if each != excluded]
        if message.acknowledge:
            effects.append(Send(session_id, wamp.Published(message.request, publication)))
        return effects

    def is_heard(self, topic: str) -> bool:
        """Whether anybody would get an event of that topic."""
        return self._subscriptions.any_matches(topic)

    def announce(self, topic: str, args: list[Any]) -> list[Effect]:
        """An event of the router's own, to all who listen."""
        subscriptions = self._subscriptions.matching(topic)
        if not subscriptions:
            return []
        publication = self._new_publication_id()
        effects: list[Effect] = []
        for subscription in subscriptions:
            event = wamp.Event(
                subscription.subscription_id,
                publication,
                args=args,
                topic=None if subscription.policy == EXACT else topic,
            )
            effects += [Send(each, event) for each in subscription.subscribers]
        return effects

    def _refusal(self, session_id: int, message: Message) -> Message | None:
        if message.retain:
            uri, text = messages.OPTION_NOT_ALLOWED, "no event is retained: no retain"
        elif messages.asks_disclosure(message) and not self._members[session_id].may_disclose:
            uri = messages.OPTION_DISALLOWED_DISCLOSE_ME
            text = f"the role {self._members[session_id].authrole} may not disclose itself"
        else:
            return None
        return wamp.Error(_PUBLISH, message.request, uri, args=[text])

    def _chosen(self, message: Message, subscribers: Iterable[int]) -> Iterable[int]:
        """Those of the subscribers that the publisher's black and white lists let have it."""
        chosen = subscribers
        members = self._members
        # A list that is there and empty counts: nobody is on it.
        if message.eligible is not None:
            listed = frozenset(message.eligible)
            chosen = [each for each in chosen if each in listed]
        if message.eligible_authid is not None:
            names = frozenset(message.eligible_authid)
            chosen = [each for each in chosen if members[each].authid in names]
        if message.eligible_authrole is not None:
            names = frozenset(message.eligible_authrole)
            chosen = [each for each in chosen if members[each].authrole in names]
        if message.exclude:
            listed = frozenset(message.exclude)
            chosen = [each for each in chosen if each not in listed]
        if message.exclude_authid:
            names = frozenset(message.exclude_authid)
            chosen = [each for each in chosen if members[each].authid not in names]
        if message.exclude_authrole:
            names = frozenset(message.exclude_authrole)
            chosen = [each for each in chosen if members[each].authrole not in names]
        return chosen

    def _drop(self, subscription: Subscription, session_id: int) -> list[Effect]:
        number = subscription.subscription_id
        del subscription.subscribers[session_id]
        changes: list[Effect] = [
            MetaEvent("wamp.subscription.on_unsubscribe", [session_id, number])
        ]
        if not subscription.subscribers:
            del self._by_id[number]
            self._subscriptions.remove(subscription.uri, subscription.policy)
            changes.append(MetaEvent("wamp.subscription.on_delete", [session_id, number]))
        return changes
