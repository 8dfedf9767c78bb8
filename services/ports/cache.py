"""The cache: what lives for a while and may be lost."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    """Keys to byte strings with a time to live.

    Everything may be lost at any moment and must be rebuilt by who needs it. Each method is atomic for each key,
    not over several. An embedded cache holds at most a configured number of keys and lets the ones go that run out
    first. A key holds a value or a map: storing the one replaces the other. Keys are at most 256 bytes. Raises
    discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.
    """

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values in the order of the keys; None for what is absent or has run out."""

    async def set(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        """Stores the values for `ttl_s` seconds (more than zero) from now."""

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes | None, ttl_s: float) -> bool:
        """Stores `value` (None: deletes) if the present value is `expected` (None: absent); tells whether it did."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes the keys; absent ones are no error."""

    async def put_field(self, key: str, field: str, value: bytes, ttl_s: float) -> None:
        """Stores a field of the map at `key`; the field by itself runs out after `ttl_s` seconds."""

    async def fields(self, keys: Sequence[str]) -> Sequence[Mapping[str, bytes]]:
        """The live fields of the maps in the order of the keys; empty for an absent map. At most 256 for each map."""

    async def delete_field(self, key: str, field: str, expected: bytes | None = None) -> bool:
        """Removes a field (if it is `expected`, where given); tells whether it did."""

    async def close(self) -> None:
        """Lets the engine go."""
