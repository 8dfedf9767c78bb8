"""The bus within one process: publishing calls the handlers."""

from discovery.errors import InvalidArgument, Unavailable
from services.ports.bus import Handler, OnGap
from services.storage.topics import Topics, TopicSubscription

_MOST_PAYLOAD_BYTES = 64 * 1024


class MemoryBus:
    """See services.ports.bus.Bus. Nothing is ever lost here, as nothing is ever queued: there are no gaps."""

    def __init__(self) -> None:
        self._topics = Topics()
        self._closed = False

    async def publish(self, topic: str, payload: bytes) -> None:
        """See Bus. Handlers run in the order in which they subscribed."""
        self._check_open()
        if len(payload) > _MOST_PAYLOAD_BYTES:
            raise InvalidArgument(f"A payload of {len(payload)} bytes is larger than {_MOST_PAYLOAD_BYTES}.")
        self._topics.run(topic, payload)

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> TopicSubscription:
        """See Bus."""
        self._check_open()
        return self._topics.add(topic, handler, on_gap)

    async def close(self) -> None:
        """See Bus. May be called twice."""
        self._closed = True
        self._topics.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The bus is closed.", reason="ENGINE_DOWN")
