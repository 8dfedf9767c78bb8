"""Whether this process can do its work, as its operator's load balancer asks."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Each part of the process by name, with an empty string if it is ready and else why it is not, safe to show."""

    parts: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether every part is."""
        return not any(self.parts.values())
