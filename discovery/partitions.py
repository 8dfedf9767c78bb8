"""Keys to partitions, pure: the same for every process and for the life of a cluster."""

from xxhash import xxh3_64_intdigest

SEPARATOR = "~"
"""Of a key that holds it, only what stands before it is hashed: what belongs to something has the same owner."""


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key, 0 to partitions - 1: XXH3 (64 bits, seed 0) of its UTF-8, modulo `partitions`."""
    if SEPARATOR in key:
        key = key[: key.index(SEPARATOR)]
    return xxh3_64_intdigest(key.encode()) % partitions
