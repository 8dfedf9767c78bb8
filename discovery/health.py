"""Whether a process can do its work, as its operator's load balancer asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Each part of the process by name, with an empty string if it is ready and else why it is not; and the engines that are
    away, each with a word on it: what needs them fails, and the rest of the process works. All of it is safe to show.
    """

    parts: Mapping[str, str]
    engines: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every part is."""
        return not any(self.parts.values())

    @property
    def status(self) -> int:
        """The HTTP status that a load balancer understands."""
        return 200 if self.ready else 503

    def shown(self) -> dict[str, Any]:
        """The answer to who asks, for JSON."""
        word = "not ready" if not self.ready else "degraded" if self.engines else "ready"
        return {
            "status": word,
            "parts": {name: why or "ready" for name, why in self.parts.items()},
            "engines": dict(self.engines),
        }
