"""The bus: news that may be lost, where the newest counts."""

from collections.abc import Callable
from typing import Protocol


class Subscription(Protocol):
    """An interest in a topic."""

    async def close(self) -> None:
        """Ends it; when this returns the handler is not called any more. May be called twice."""


Handler = Callable[[str, bytes], None]
"""Called with topic and payload. Must not block and must not raise: an error is logged and counted, and ends nothing."""


class Bus(Protocol):
    """Publish and subscribe, at most once.

    Payloads of one publisher on one topic come in order or not at all; a subscriber that falls behind loses the
    oldest. Nothing is kept for who comes later. Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.
    """

    async def publish(self, topic: str, payload: bytes) -> None:
        """Gives the payload (at most 64 KiB) to who is subscribed now. When it returns, handlers of this process have run."""

    async def subscribe(self, topic: str, handler: Handler) -> Subscription:
        """From its return on the handler gets what is published. The same handler may be subscribed twice."""

    async def close(self) -> None:
        """Ends all subscriptions and lets the engine go."""
