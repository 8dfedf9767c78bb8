"""The device store: which devices a user has, and how far each has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device. `cursor` is the last inbox place it acknowledged, `last_seen_ms` when it was last known to be connected."""

    user_id: str
    device_id: str
    cursor: int
    last_seen_ms: int


@dataclass(frozen=True, slots=True)
class CursorMove:
    """A cursor that is to move to `pos`."""

    user_id: str
    device_id: str
    pos: int


class DeviceStore(Protocol):
    """Devices by user. What was written is durable when a method returns. Raises discovery.errors.Unavailable
    (ENGINE_DOWN) when the engine is away.
    """

    async def touch(self, user_id: str, device_id: str, seen_ms: int, most: int) -> DeviceRow | None:
        """Makes the device if need be, raises its `last_seen_ms`, and returns it. None, and nothing done, if the user would
        then have more than `most` devices.
        """

    async def advance(self, moves: Sequence[CursorMove]) -> Sequence[int]:
        """Raises cursors (never lowers); returns what each was before. A device that is not known stays so and answers 0."""

    async def list_devices(self, user_id: str, after_device_id: str, limit: int) -> Sequence[DeviceRow]:
        """Devices with device_id > after_device_id, in order of device id."""

    async def remove(self, user_id: str, device_id: str) -> bool:
        """Forgets the device and its cursor; tells whether there was one."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
