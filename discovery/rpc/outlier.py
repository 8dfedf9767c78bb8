"""Outlier ejection, pure: which instances are spared the calls that another can answer, because they failed lately.

An instance that cannot be reached, or does not answer, is ejected, for longer each time in a row and with jitter, so that not
all callers come back to it at once; an answer from it, whatever it says, makes it as good as new. At most half of those
that serve are ejected: when everything fails, the fault is hardly theirs. Calls whose key decides go to the owner anyway.
"""

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from discovery.registry.port import Instance

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0


@dataclass(slots=True)
class _Record:
    failures: int
    until_s: float


class Outliers:
    """What this process has lived through with others. `share` gives a random number from 0 to 1."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, share: Callable[[], float] = random.random) -> None:
        self._now_s = now_s
        self._share = share
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        now_s = self._now_s()
        return sum(record.until_s > now_s for record in self._records.values())

    def failed(self, instance_id: str) -> bool:
        """The instance could not be reached, or gave no answer. True: it is ejected now, and was not before."""
        now_s = self._now_s()
        record = self._records.get(instance_id)
        if record is None:
            record = self._records[instance_id] = _Record(0, 0.0)
        if record.until_s > now_s:
            return False  # calls that were under way together fail together: that is one failure
        record.failures += 1
        longest_s = min(LONGEST_S, FIRST_S * 2 ** min(record.failures - 1, 16))
        record.until_s = now_s + longest_s * (0.5 + self._share() / 2)
        return True

    def succeeded(self, instance_id: str) -> None:
        """The instance answered."""
        if self._records:
            self._records.pop(instance_id, None)

    def fit(self, serving: Sequence[Instance]) -> Sequence[Instance]:
        """Those that may be given calls, at least half of them."""
        if not self._records:
            return serving
        now_s = self._now_s()
        ejected = [
            (record.until_s, instance.instance_id)
            for instance in serving
            if (record := self._records.get(instance.instance_id)) is not None and record.until_s > now_s
        ]
        # The half that must stay is of those whose time is nearly over.
        spared = {name for _, name in sorted(ejected, reverse=True)[: len(serving) // 2]}
        return [instance for instance in serving if instance.instance_id not in spared] if spared else serving

    def keep(self, known: Collection[str]) -> None:
        """Forgets all instances but these."""
        for name in [name for name in self._records if name not in known]:
            del self._records[name]
