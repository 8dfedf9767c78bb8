"""Which partitions this process owns, and for how long already. Pure."""

from collections.abc import Callable


class Ownership:
    """`partition_of` maps a user to a partition. Owns nothing before follow()."""

    def __init__(self, partition_of: Callable[[str], int]) -> None:
        self._partition_of = partition_of
        self._since_s: dict[int, float] = {}

    def follow(self, owned: frozenset[int], now_s: float) -> None:
        """The process owns these partitions now."""
        self._since_s = {partition: self._since_s.get(partition, now_s) for partition in owned}

    def owns(self, user_id: str) -> bool:
        """Whether the user's partition is this process's."""
        return self._partition_of(user_id) in self._since_s

    def owns_for(self, user_id: str, least_s: float, now_s: float) -> bool:
        """Whether it has been so for at least that long."""
        since_s = self._since_s.get(self._partition_of(user_id))
        return since_s is not None and now_s - since_s >= least_s
