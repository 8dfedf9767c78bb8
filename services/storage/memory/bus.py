"""The bus within one process: publishing calls the handlers."""

import structlog
from prometheus_client import Counter

from discovery.errors import InvalidArgument, Unavailable
from services.ports.bus import Handler

_MOST_PAYLOAD_BYTES = 64 * 1024

_log = structlog.get_logger(__name__)
_handler_errors = Counter("hither_bus_handler_errors_total", "Errors that handlers of bus topics raised")


class _MemorySubscription:
    """A handler in its topic's list; equal to nothing but itself, so that a handler may be there twice."""

    __slots__ = ("_bus", "handler", "open", "topic")

    def __init__(self, bus: "MemoryBus", topic: str, handler: Handler) -> None:
        self._bus = bus
        self.topic = topic
        self.handler = handler
        self.open = True

    async def close(self) -> None:
        """See services.ports.bus.Subscription."""
        self._bus.drop(self)


class MemoryBus:
    """See services.ports.bus.Bus. Nothing is ever lost here, as nothing is ever queued."""

    def __init__(self) -> None:
        self._topics: dict[str, tuple[_MemorySubscription, ...]] = {}
        self._closed = False

    async def publish(self, topic: str, payload: bytes) -> None:
        """See Bus. Handlers run in the order in which they subscribed."""
        self._check_open()
        if len(payload) > _MOST_PAYLOAD_BYTES:
            raise InvalidArgument(f"A payload of {len(payload)} bytes is larger than {_MOST_PAYLOAD_BYTES}.")
        for subscription in self._topics.get(topic, ()):
            if not subscription.open:
                continue
            try:
                subscription.handler(topic, payload)
            except Exception:  # noqa: BLE001 - an error ends nothing, neither the publisher nor the other handlers
                _handler_errors.inc()
                _log.exception("bus_handler_failed", topic=topic)

    async def subscribe(self, topic: str, handler: Handler) -> _MemorySubscription:
        """See Bus."""
        self._check_open()
        subscription = _MemorySubscription(self, topic, handler)
        self._topics[topic] = (*self._topics.get(topic, ()), subscription)
        return subscription

    async def close(self) -> None:
        """See Bus. May be called twice."""
        self._closed = True
        for subscriptions in self._topics.values():
            for subscription in subscriptions:
                subscription.open = False
        self._topics.clear()

    def drop(self, subscription: _MemorySubscription) -> None:
        """Ends the subscription, if it has not ended already."""
        if not subscription.open:
            return
        subscription.open = False
        left = tuple(other for other in self._topics[subscription.topic] if other is not subscription)
        if left:
            self._topics[subscription.topic] = left
        else:
            del self._topics[subscription.topic]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The bus is closed.", reason="ENGINE_DOWN")
