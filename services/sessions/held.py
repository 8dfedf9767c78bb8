"""What this process itself put on record: the connections of the users that it owns, in memory, for the time that the cache
is away or has lost them. Pure: knows neither cache nor tasks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

Device = tuple[str, str]
"""(user_id, device_id)."""

_NOTHING: Mapping[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection on record, as the cache holds it, and when it runs out by the process's own clock."""

    value: bytes
    ends_s: float


class Held:
    """Entries by device, at most `most` of them: beyond, those that run out first are forgotten."""

    def __init__(self, ttl_s: float, most: int) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._entries: dict[Device, Entry] = {}
        """In the order in which they run out, as all live equally long."""
        self._users: dict[str, dict[str, bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, device: Device, value: bytes, now_s: float) -> None:
        """Holds the connection of the device for a full time to live."""
        self._forget_old(now_s)
        self._entries.pop(device, None)
        self._entries[device] = Entry(value, now_s + self._ttl_s)
        self._users.setdefault(device[0], {})[device[1]] = value
        if len(self._entries) > self._most:
            self._remove(next(iter(self._entries)))

    def drop(self, device: Device, expected: bytes) -> bool:
        """Forgets the device's connection if it is this one; tells whether it was."""
        entry = self._entries.get(device)
        if entry is None or entry.value != expected:
            return False
        self._remove(device)
        return True

    def of_user(self, user_id: str, now_s: float) -> Mapping[str, bytes]:
        """The user's connections by device."""
        self._forget_old(now_s)
        return self._users.get(user_id, _NOTHING)

    def entry(self, device: Device, now_s: float) -> Entry | None:
        """The device's connection, if it has not run out."""
        self._forget_old(now_s)
        return self._entries.get(device)

    def devices(self) -> Iterator[Device]:
        """All devices that are held, those that run out first before the others."""
        return iter(self._entries)

    def keep_only(self, is_kept: Callable[[str], bool]) -> None:
        """Forgets the users of whom `is_kept` says no."""
        self._remove_all([device for device in self._entries if not is_kept(device[0])])

    def _forget_old(self, now_s: float) -> None:
        while self._entries:
            device = next(iter(self._entries))
            if self._entries[device].ends_s > now_s:
                return
            self._remove(device)

    def _remove_all(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self._remove(device)

    def _remove(self, device: Device) -> None:
        user_id, device_id = device
        del self._entries[device]
        devices = self._users[user_id]
        del devices[device_id]
        if not devices:
            del self._users[user_id]
