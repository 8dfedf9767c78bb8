"""Who listens to which topic in this process, for every bus."""

from collections.abc import Callable, Iterator

import structlog
from prometheus_client import Counter

from services.ports.bus import Handler, OnGap

_log = structlog.get_logger(__name__)
_handler_errors = Counter("hither_bus_handler_errors_total", "Errors that handlers of bus topics raised")


class TopicSubscription:
    """See services.ports.bus.Subscription. Equal to nothing but itself, so that a handler may be there twice."""

    __slots__ = ("_topics", "handler", "on_gap", "open", "topic")

    def __init__(self, topics: "Topics", topic: str, handler: Handler, on_gap: OnGap | None) -> None:
        self._topics = topics
        self.topic = topic
        self.handler = handler
        self.on_gap = on_gap
        self.open = True

    async def close(self) -> None:
        """See Subscription."""
        self._topics.drop(self)


class Topics:
    """Handlers by topic. `on_empty` is called with a topic whose last subscription was closed."""

    def __init__(self, on_empty: Callable[[str], None] = lambda _: None) -> None:
        self._on_empty = on_empty
        self._subscriptions: dict[str, tuple[TopicSubscription, ...]] = {}

    def __len__(self) -> int:
        """Topics that somebody listens to."""
        return len(self._subscriptions)

    def __iter__(self) -> Iterator[str]:
        """Those topics."""
        return iter(self._subscriptions)

    def count(self, topic: str) -> int:
        """Subscriptions to the topic."""
        return len(self._subscriptions.get(topic, ()))

    def add(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> TopicSubscription:
        """Another subscription, after those that are there."""
        subscription = TopicSubscription(self, topic, handler, on_gap)
        self._subscriptions[topic] = (*self._subscriptions.get(topic, ()), subscription)
        return subscription

    def run(self, topic: str, payload: bytes) -> None:
        """Calls the topic's handlers in the order in which they subscribed. What they raise is logged and counted."""
        for subscription in self._subscriptions.get(topic, ()):
            if not subscription.open:
                continue
            try:
                subscription.handler(topic, payload)
            except Exception:  # noqa: BLE001 - an error ends nothing, neither the publisher nor the other handlers
                _handler_errors.inc()
                _log.exception("bus_handler_failed", topic=topic)

    def missed(self, topic: str) -> None:
        """Tells the topic's subscribers of a gap, in the order in which they subscribed. What they raise is logged and
        counted.
        """
        for subscription in self._subscriptions.get(topic, ()):
            if not subscription.open or subscription.on_gap is None:
                continue
            try:
                subscription.on_gap(topic)
            except Exception:  # noqa: BLE001 - an error ends nothing
                _handler_errors.inc()
                _log.exception("bus_handler_failed", topic=topic)

    def drop(self, subscription: TopicSubscription) -> None:
        """Ends the subscription, if it has not ended already."""
        if not subscription.open:
            return
        subscription.open = False
        left = tuple(other for other in self._subscriptions[subscription.topic] if other is not subscription)
        if left:
            self._subscriptions[subscription.topic] = left
            return
        del self._subscriptions[subscription.topic]
        self._on_empty(subscription.topic)

    def clear(self) -> None:
        """Ends all subscriptions; `on_empty` is not called."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.open = False
        self._subscriptions.clear()
