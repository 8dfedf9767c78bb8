"""Which partition a row is in: rows of one key go into buckets of so many places each, so that no partition grows without end.

Pure. Places count from 1 without a gap, so a bucket that lacks its last place is the newest, or lies beyond the end.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets of `places` places each; the first is 0."""

    places: int

    def of(self, place: int) -> int:
        """The bucket that holds the place."""
        return (place - 1) // self.places

    def first(self, bucket: int) -> int:
        """The first place of a bucket."""
        return bucket * self.places + 1

    def last(self, bucket: int) -> int:
        """The last place of a bucket."""
        return (bucket + 1) * self.places
