"""Which of several servers has which topic: by the ring of the mesh, over the servers that the registry names.

Who publishes must not use an older ring than who listens, or news would go where nobody hears them. So every server keeps the
newest ring that anybody has told it, at one key, and a ring that it is told later but that is older does not replace it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from discovery.registry.port import InstanceState, Snapshot
from discovery.ring import assign

SERVICE: Final = "hither.bus.Redis"
"""As what Redis servers stand in the registry; the instance id is the address."""
RING_TOPIC: Final = "hither.bus.ring"
"""Where a new ring is published at each server."""

_WEIGHTS = msgspec.json.Decoder(dict[str, int])
_PACKED = re.compile(rb"(\d+) (\{.*\})")

KEEP_NEWEST: Final = """
local kept = redis.call('GET', KEYS[1])
local revision = kept and tonumber(string.match(kept, '^%d+')) or -1
if revision > tonumber(ARGV[1]) and ARGV[3] ~= '1' then return kept end
redis.call('SET', KEYS[1], ARGV[2])
return revision == tonumber(ARGV[1]) and 0 or 1
"""
"""Keeps a ring at a key: its revision, the ring, "1" to replace a newer one too. Returns the one that is there if that is newer;
else 1, or 0 if that revision was there before.
"""


@dataclass(frozen=True, slots=True)
class Shards:
    """The servers at a revision of the registry, and the address of each partition's: none if there are no servers."""

    revision: int
    weights: Mapping[str, int]
    owners: tuple[str, ...]

    def has_servers_of(self, other: "Shards") -> bool:
        """Whether the two place every topic alike."""
        return self.weights == other.weights

    def packed(self) -> bytes:
        """As servers keep it."""
        return b"%d %s" % (self.revision, msgspec.json.encode(self.weights))


NO_SHARDS = Shards(-1, {}, ())


def shards_of(snapshot: Snapshot, previous: Shards, partitions: int) -> Shards:
    """What a snapshot of the registry says."""
    weights = {
        instance.instance_id: instance.weight
        for instance in snapshot.instances
        if instance.service == SERVICE and instance.state is InstanceState.SERVING
    }
    return _placed(snapshot.revision, weights, previous, partitions)


def unpack(data: bytes, previous: Shards, partitions: int) -> Shards | None:
    """What a server kept; None if that is no ring."""
    found = _PACKED.fullmatch(data)
    if found is None:
        return None
    try:
        weights = _WEIGHTS.decode(found[2])
    except msgspec.MsgspecError:
        return None
    return _placed(int(found[1]), weights, previous, partitions)


def _placed(revision: int, weights: dict[str, int], previous: Shards, partitions: int) -> Shards:
    if weights == previous.weights:
        return Shards(revision, previous.weights, previous.owners)
    return Shards(revision, weights, assign(weights, partitions))
