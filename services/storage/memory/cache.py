"""The cache within one process.

Whatever has run out is invisible at once and let go of a little at a time, at each write. A heap holds when each key
runs out, as it was when the key was last looked at there: renewing a key touches the heap not at all, and a key whose
turn comes too early is put back.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import count

from discovery.clock import Clock
from discovery.errors import InvalidArgument, Unavailable

_MOST_KEY_BYTES = 256
_MOST_FIELDS = 256
_SWEPT_AT_A_WRITE = 16
"""Keys looked at in the heap at each write at most; a write adds one at most, so what has run out cannot pile up."""
_HEAP_SLACK = 1024


class _Slot:
    """A key's value or its fields, each with the monotonic second at which it runs out."""

    __slots__ = ("expires_s", "fields", "value")

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.fields: dict[str, tuple[bytes, float]] | None = None
        self.expires_s = 0.0


class MemoryCache:
    """See services.ports.cache.Cache. A map that has 256 live fields lets the one go that runs out first.

    Setting a key that holds a map replaces the map, and the other way round.
    """

    def __init__(self, clock: Clock, most_keys: int = 1_000_000) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._slots: dict[str, _Slot] = {}
        self._heap: list[tuple[float, int, str, _Slot]] = []
        self._ticket = count()
        self._closed = False

    def __len__(self) -> int:
        """Keys that are held, those included that have run out and were not yet let go of."""
        return len(self._slots)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See Cache."""
        now_s = self._now_s()
        return [self._value(key, now_s) for key in keys]

    async def set(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        """See Cache."""
        now_s = self._now_s()
        _check_ttl(ttl_s)
        for key in items:
            _check_key(key)
        for key, value in items.items():
            self._store(key, value, now_s, ttl_s)

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes | None, ttl_s: float) -> bool:
        """See Cache. `ttl_s` is not looked at when it deletes."""
        now_s = self._now_s()
        _check_key(key)
        if value is not None:
            _check_ttl(ttl_s)
        if self._value(key, now_s) != expected:
            return False
        if value is None:
            self._slots.pop(key, None)
        else:
            self._store(key, value, now_s, ttl_s)
        return True

    async def delete(self, keys: Sequence[str]) -> None:
        """See Cache."""
        self._now_s()
        for key in keys:
            self._slots.pop(key, None)

    async def put_field(self, key: str, field: str, value: bytes, ttl_s: float) -> None:
        """See Cache."""
        now_s = self._now_s()
        _check_key(key)
        _check_ttl(ttl_s)
        slot = self._slot(key, now_s)
        if slot.fields is None:
            slot.value, slot.fields = None, {}
        slot.fields[field] = value, now_s + ttl_s
        if len(slot.fields) > _MOST_FIELDS:
            _make_room(slot.fields, field, now_s)
        self._expire_at(key, slot, max(slot.expires_s, now_s + ttl_s))
        self._let_go(now_s)

    async def fields(self, keys: Sequence[str]) -> Sequence[Mapping[str, bytes]]:
        """See Cache."""
        now_s = self._now_s()
        return [self._live_fields(key, now_s) for key in keys]

    async def delete_field(self, key: str, field: str, expected: bytes | None = None) -> bool:
        """See Cache."""
        found = self._live_fields(key, self._now_s()).get(field)
        if found is None or (expected is not None and found != expected):
            return False
        slot = self._slots[key]
        assert slot.fields is not None
        del slot.fields[field]
        if not slot.fields:
            del self._slots[key]
        return True

    async def close(self) -> None:
        """See Cache. May be called twice."""
        self._closed = True
        self._slots.clear()
        self._heap.clear()

    def _now_s(self) -> float:
        if self._closed:
            raise Unavailable("The cache is closed.", reason="ENGINE_DOWN")
        return self._clock.monotonic_s()

    def _value(self, key: str, now_s: float) -> bytes | None:
        slot = self._slots.get(key)
        return slot.value if slot is not None and slot.expires_s > now_s else None

    def _live_fields(self, key: str, now_s: float) -> dict[str, bytes]:
        slot = self._slots.get(key)
        if slot is None or slot.fields is None:
            return {}
        return {field: value for field, (value, expires_s) in slot.fields.items() if expires_s > now_s}

    def _store(self, key: str, value: bytes, now_s: float, ttl_s: float) -> None:
        slot = self._slot(key, now_s)
        slot.value, slot.fields = value, None
        self._expire_at(key, slot, now_s + ttl_s)
        self._let_go(now_s)

    def _slot(self, key: str, now_s: float) -> _Slot:
        slot = self._slots.get(key)
        if slot is None or slot.expires_s <= now_s:
            slot = self._slots[key] = _Slot()
        return slot

    def _expire_at(self, key: str, slot: _Slot, expires_s: float) -> None:
        # A slot is in the heap once it has a time; only an earlier one needs a new entry.
        if slot.expires_s == 0.0 or expires_s < slot.expires_s:
            heapq.heappush(self._heap, (expires_s, next(self._ticket), key, slot))
        slot.expires_s = expires_s

    def _let_go(self, now_s: float) -> None:
        for _ in range(_SWEPT_AT_A_WRITE):
            if not self._heap or self._heap[0][0] > now_s:
                break
            self._pop()
        while len(self._slots) > self._most_keys:
            self._pop()
        if len(self._heap) > 2 * len(self._slots) + _HEAP_SLACK:
            self._heap = [(slot.expires_s, next(self._ticket), key, slot) for key, slot in self._slots.items()]
            heapq.heapify(self._heap)

    def _pop(self) -> None:
        """Takes the heap's first key: lets it go, or puts it back if its time has grown since it was put there."""
        at_s, _, key, slot = heapq.heappop(self._heap)
        if self._slots.get(key) is not slot:
            return
        if slot.expires_s > at_s:
            heapq.heappush(self._heap, (slot.expires_s, next(self._ticket), key, slot))
        else:
            del self._slots[key]


def _make_room(fields: dict[str, tuple[bytes, float]], newcomer: str, now_s: float) -> None:
    """Removes the fields that have run out, or else the one that does so next."""
    for field in [field for field, (_, expires_s) in fields.items() if expires_s <= now_s]:
        del fields[field]
    if len(fields) > _MOST_FIELDS:
        del fields[min((field for field in fields if field != newcomer), key=lambda field: fields[field][1])]


def _check_key(key: str) -> None:
    if len(key) * 4 > _MOST_KEY_BYTES and len(key.encode()) > _MOST_KEY_BYTES:
        raise InvalidArgument(f"A key is longer than {_MOST_KEY_BYTES} bytes.")


def _check_ttl(ttl_s: float) -> None:
    if not ttl_s > 0:
        raise InvalidArgument("A time to live is more than zero seconds.")
