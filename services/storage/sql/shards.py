"""Which part of the data a database holds, written into it once: users live on the shard that their id's hash names, so a
database that took another's place would hide some people's data from them.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Table, insert, select
from xxhash import xxh3_64_intdigest

from services.storage.sql.schema import DEVICES_SHARD


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `number`, from 0, of `shards`."""

    number: int = 0
    shards: int = 1


def shard_of(user_id: str, shards: int) -> int:
    """The number of the user's shard: XXH3 (64 bits, seed 0) of the id's UTF-8, modulo `shards`. For the life of the data."""
    return xxh3_64_intdigest(user_id.encode()) % shards


def by_shard(ids: Collection[str], shards: int) -> Mapping[int, list[str]]:
    """The ids by the numbers of their shards."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for each in ids:
        found[shard_of(each, shards)].append(each)
    return found


def claim(shard: Shard, connection: Connection, table: Table = DEVICES_SHARD, data: str = "devices") -> None:
    """Makes a new database this shard of the data, as `table` says. Raises ValueError if it is another one."""
    row = connection.execute(select(table)).first()
    if row is None:
        connection.execute(insert(table).values(number=shard.number, shards=shard.shards))
        return
    if (row.number, row.shards) != (shard.number, shard.shards):
        raise ValueError(
            f"the database is shard {row.number + 1} of {row.shards} of the {data} and cannot be shard "
            f"{shard.number + 1} of {shard.shards}: number and order of the shards are fixed"
        )
