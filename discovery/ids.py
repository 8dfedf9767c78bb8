"""The ids of the contract: Snowflakes and direct conversations."""

import hashlib
from base64 import urlsafe_b64encode

from discovery.clock import Clock

SNOWFLAKE_EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z: the zero of a Snowflake's time."""

_INSTANCE_BITS = 10
_SEQUENCE_BITS = 12
_MAX_SEQUENCE = (1 << _SEQUENCE_BITS) - 1


class Snowflakes:
    """Makes unique, ascending 64-bit ids: 41 bits of milliseconds, 10 of instance, 12 of sequence.

    When the clock goes back, or a millisecond's 4096 ids are used up, ids run ahead of the clock instead of
    repeating. `instance` (0 to 1023) must be held by no other live process.
    """

    def __init__(self, instance: int, clock: Clock) -> None:
        if not 0 <= instance < 1 << _INSTANCE_BITS:
            raise ValueError(f"instance {instance} does not fit {_INSTANCE_BITS} bits")
        self._instance = instance
        self._clock = clock
        self._last_ms = 0
        self._sequence = 0

    def next(self) -> int:
        """An id greater than every id before it from this object."""
        now_ms = self._clock.now_ms() - SNOWFLAKE_EPOCH_MS
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        elif self._sequence < _MAX_SEQUENCE:
            self._sequence += 1
        else:
            self._last_ms, self._sequence = self._last_ms + 1, 0
        return self._last_ms << (_INSTANCE_BITS + _SEQUENCE_BITS) | self._instance << _SEQUENCE_BITS | self._sequence


def direct_conversation_id(one: str, other: str) -> str:
    """The id of the conversation of two users, in whichever order they are given.

    "d." and 27 characters: the first 160 bits of SHA-256 over the sorted ids with a NUL between, in base64url.
    """
    digest = hashlib.sha256("\0".join(sorted((one, other))).encode()).digest()
    return "d." + urlsafe_b64encode(digest[:20]).decode().rstrip("=")
