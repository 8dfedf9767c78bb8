"""What a topic's settings must be for a log, and what is wrong with those of a topic that somebody else made. Pure."""

from collections.abc import Mapping
from typing import Final

LEAST_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""Records are there for at least as long as an outage of whoever applies them may take: seven days."""
MOST_CALL_BYTES: Final = 32 * 1024 * 1024
_MOST_MESSAGE_BYTES = MOST_CALL_BYTES + 1024 * 1024
_SEGMENT_BYTES = 64 * 1024 * 1024
_SEGMENT_MS = 3_600_000
CHECKED: Final = ("cleanup.policy", "retention.ms", "retention.bytes", "min.insync.replicas")
"""The settings that `complaint` looks at."""


def least_in_sync(replication: int) -> int:
    """An acknowledgement counts on all replicas but one, so that one may be away."""
    return max(1, replication - 1)


def settings(replication: int) -> dict[str, str]:
    """Of a topic that is made here."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        # What was trimmed goes with its whole segment only.
        "segment.bytes": str(_SEGMENT_BYTES),
        "segment.ms": str(_SEGMENT_MS),
        "max.message.bytes": str(_MOST_MESSAGE_BYTES),
        # A record of a process whose clock is wrong would be refused.
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(least_in_sync(replication)),
        "unclean.leader.election.enable": "false",
    }


def complaint(found: Mapping[str, str], replication: int) -> str | None:
    """Why a topic with these settings would lose what it acknowledged; None if it would not. What is not known is not at fault."""
    if found.get("cleanup.policy", "delete") != "delete":
        return f"cleanup.policy is {found['cleanup.policy']}, not delete"
    if 0 <= int(found.get("retention.ms", "-1")) < LEAST_RETENTION_MS:
        return f"retention.ms is {found['retention.ms']}, which is less than seven days"
    if int(found.get("retention.bytes", "-1")) >= 0:
        return f"retention.bytes is {found['retention.bytes']}, not -1"
    least = least_in_sync(replication)
    if int(found.get("min.insync.replicas", least)) < least:
        return f"min.insync.replicas is {found['min.insync.replicas']}, not {least}"
    return None
