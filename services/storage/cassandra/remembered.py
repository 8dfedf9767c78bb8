"""What an adapter remembers of its last reads, to save some of the next ones."""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """The `most` values that were put in last; older ones are forgotten, which costs a read and nothing else."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Key, Value] = {}

    def put(self, key: Key, value: Value) -> None:
        """Remembers the value, instead of any other of that key."""
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]

    def get(self, key: Key) -> Value | None:
        """The value, or None if it is not remembered."""
        return self._values.get(key)

    def take(self, key: Key) -> Value | None:
        """Forgets the value and gives it."""
        return self._values.pop(key, None)
