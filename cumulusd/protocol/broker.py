"""The broker, without I/O: who listens to which topic. A message in, effects out.

An event is one message object for all its subscribers, so that it is serialised once per codec.
"""

import attrs

from cumulusd.errors import TooMany
from cumulusd.protocol import messages
from cumulusd.protocol.messages import Effect, Message, Send, error_reply, wamp

_SUBSCRIBE = wamp.Subscribe.MESSAGE_TYPE
_UNSUBSCRIBE = wamp.Unsubscribe.MESSAGE_TYPE
_PUBLISH = wamp.Publish.MESSAGE_TYPE
#: Options of PUBLISH that choose among subscribers; not announced, so refused rather than ignored.
_CHOOSING = (
    "exclude",
    "exclude_authid",
    "exclude_authrole",
    "eligible",
    "eligible_authid",
    "eligible_authrole",
    "retain",
)


@attrs.define(kw_only=True)
class _Topic:
    subscription_id: int
    uri: str
    #: Session ids in the order of their subscription (a dict is an ordered set).
    subscribers: dict[int, None] = attrs.field(factory=dict)


class Broker:
    """Topics of one realm. A topic lives while somebody listens to it."""

    def __init__(self, *, max_subscriptions: int) -> None:
        """The bound is per session."""
        self._max_subscriptions = max_subscriptions
        self._by_uri: dict[str, _Topic] = {}
        self._by_session: dict[int, dict[int, _Topic]] = {}
        self._last_subscription = 0
        self._last_publication = 0

    @property
    def topics(self) -> int:
        """Topics somebody listens to."""
        return len(self._by_uri)

    def leave(self, session_id: int) -> None:
        """A session is gone, and its subscriptions with it."""
        for topic in self._by_session.pop(session_id, {}).values():
            self._drop(topic, session_id)

    def subscribe(self, session_id: int, message: Message) -> list[Effect]:
        """SUBSCRIBE, exact match only. Subscribing twice gives the same subscription."""
        if message.match not in (None, wamp.Subscribe.MATCH_EXACT) or message.get_retained:
            text = "topics are matched exactly and nothing is retained: no match, get_retained"
            error = wamp.Error(
                _SUBSCRIBE, message.request, messages.OPTION_NOT_ALLOWED, args=[text]
            )
            return [Send(session_id, error)]
        mine = self._by_session.get(session_id, {})
        topic = self._by_uri.get(message.topic)
        if topic is None or topic.subscription_id not in mine:
            if len(mine) >= self._max_subscriptions:
                full = TooMany(
                    f"{message.topic} not subscribed: at most {self._max_subscriptions} a session",
                    hint="unsubscribe from what has ended",
                )
                return [Send(session_id, error_reply(_SUBSCRIBE, message.request, full))]
            if topic is None:
                self._last_subscription += 1
                topic = _Topic(subscription_id=self._last_subscription, uri=message.topic)
                self._by_uri[topic.uri] = topic
            topic.subscribers[session_id] = None
            self._by_session.setdefault(session_id, {})[topic.subscription_id] = topic
        return [Send(session_id, wamp.Subscribed(message.request, topic.subscription_id))]

    def unsubscribe(self, session_id: int, message: Message) -> list[Effect]:
        """UNSUBSCRIBE."""
        topic = self._by_session.get(session_id, {}).pop(message.subscription, None)
        if topic is None:
            text = f"this session has no subscription {message.subscription}"
            error = wamp.Error(
                _UNSUBSCRIBE, message.request, messages.NO_SUCH_SUBSCRIPTION, args=[text]
            )
            return [Send(session_id, error)]
        self._drop(topic, session_id)
        return [Send(session_id, wamp.Unsubscribed(message.request))]

    def publish(self, session_id: int, message: Message) -> list[Effect]:
        """PUBLISH: an EVENT to every subscriber; to the publisher if `exclude_me` is false."""
        if any(getattr(message, option, None) for option in _CHOOSING):
            if not message.acknowledge:
                return []
            text = f"not offered: {', '.join(_CHOOSING)}"
            error = wamp.Error(_PUBLISH, message.request, messages.OPTION_NOT_ALLOWED, args=[text])
            return [Send(session_id, error)]
        self._last_publication += 1
        effects: list[Effect] = []
        topic = self._by_uri.get(message.topic)
        if topic is not None:
            event = wamp.Event(
                topic.subscription_id,
                self._last_publication,
                args=message.args,
                kwargs=message.kwargs,
            )
            excluded = None if message.exclude_me is False else session_id
            effects += [Send(each, event) for each in topic.subscribers if each != excluded]
        if message.acknowledge:
            effects.append(
                Send(session_id, wamp.Published(message.request, self._last_publication))
            )
        return effects

    def _drop(self, topic: _Topic, session_id: int) -> None:
        del topic.subscribers[session_id]
        if not topic.subscribers:
            del self._by_uri[topic.uri]
