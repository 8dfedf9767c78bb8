"""The bus: news that may be lost, where the newest counts."""

from collections.abc import Callable
from typing import Protocol


class Subscription(Protocol):
    """An interest in a topic."""

    async def close(self) -> None:
        """Ends it; when this returns neither handler is called any more. May be called twice."""


Handler = Callable[[str, bytes], None]
"""Called with topic and payload. Must not block and must not raise: an error is logged and counted, and ends nothing."""
OnGap = Callable[[str], None]
"""Called with a topic whose news may have been missed; as a Handler, it neither blocks nor raises."""


class Bus(Protocol):
    """Publish and subscribe, at most once.

    Payloads of one publisher on one topic come in order or not at all; a subscriber that falls behind loses the
    oldest. Nothing is kept for who comes later. Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.

    Whatever is lost to a subscriber between its subscribing and its closing, it is told by `on_gap`: once the topic is heard
    again, not before. Who writes what the news are about before publishing them, and reads it when told of a gap, is up to
    date then, and what is published later is heard. There may be gaps without a loss; of several in a row, one may be told.
    Only what a publisher was told to have failed (Unavailable) may be lost without a gap: it is the publisher's to repeat.
    """

    async def publish(self, topic: str, payload: bytes) -> None:
        """Gives the payload (at most 64 KiB) to who is subscribed now. When it returns, handlers of this process have run."""

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> Subscription:
        """From its return on the handler gets what is published. The same handler may be subscribed twice."""

    async def close(self) -> None:
        """Ends all subscriptions and lets the engine go."""
