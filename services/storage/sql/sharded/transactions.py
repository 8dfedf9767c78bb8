"""Transactions over shards: which parts are open, and what they may see.

Writes, and reads of more than one shard, are kept apart by strict two-phase locking: whatever is looked at or changed is locked
first, by its key, until the end. The locks are PostgreSQL's advisory locks of the transaction, so they outlive PREPARE and a
restart of the server. Transactions that wait for each other across shards end by lock_timeout and are run again.

A read of one shard locks nothing but takes a snapshot. It must not miss what is prepared there and decided already, as the
other shards show that, and what was built on it: so the snapshot is taken at a moment at which nothing is prepared. If there is none
for 50 ms, as a part is in doubt, the read locks too.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import asyncpg
from sqlalchemy import TextClause, text

from services.storage.sql.engine import Statements
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sharded.branch import Branch
from services.storage.sql.sharded.commit import GATE
from services.storage.sql.sharded.failures import NeedsLocks
from services.storage.sql.sharded.keys import Key

EXCLUSIVE = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
SHARED = text("SELECT pg_advisory_xact_lock_shared(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
# Waits until nothing is prepared here, then takes the snapshot, then lets the gate go.
_SNAPSHOT = f"""
    SAVEPOINT gate; SET LOCAL lock_timeout = 50; LOCK TABLE {GATE} IN SHARE MODE; SELECT 1;
    ROLLBACK TO SAVEPOINT gate"""


class Shards(Protocol):
    """What the tables need of a transaction."""

    @property
    def count(self) -> int:
        """How many shards there are."""

    async def lock(self, keys: Collection[Key]) -> None:
        """Sees to it that nobody else changes what is under these keys before the end."""

    async def at(self, key: Key) -> Statements:
        """Locks the key; statements on its shard that look at what is under it."""

    async def changing(self, key: Key) -> Statements:
        """Locks the key; statements on its shard that change what is under it."""

    async def unlocked(self, number: int) -> Statements:
        """Statements on a shard that look at what needs no lock: what never changes, or will be looked at again."""


class LockingTransaction:
    """See Shards. Belongs to one task; `stack` ends all branches. `begin` is PostgreSQL's BEGIN and
    `lock` is EXCLUSIVE or SHARED.
    """

    def __init__(
        self, stack: AsyncExitStack, engines: Sequence[PostgresqlEngine], begin: str, lock: TextClause
    ) -> None:
        self._stack = stack
        self._engines = engines
        self._begin = begin
        self._lock = lock
        self._branches: dict[int, Branch] = {}
        self._held: set[Key] = set()

    @property
    def count(self) -> int:
        """See Shards."""
        return len(self._engines)

    @property
    def branches(self) -> list[Branch]:
        """All parts, in the order in which they were begun."""
        return list(self._branches.values())

    async def lock(self, keys: Collection[Key]) -> None:
        """See Shards. In the order of shards and locks, so that fewer wait for each other."""
        wanted: defaultdict[int, set[Key]] = defaultdict(set)
        for key in keys:
            if key not in self._held:
                wanted[key.shard(self.count)].add(key)
        for number in sorted(wanted):
            branch = await self._branch(number)
            locks = sorted({key.lock for key in wanted[number]})
            await branch.statements.execute(self._lock, {"keys": locks})
            self._held |= wanted[number]

    async def at(self, key: Key) -> Statements:
        """See Shards."""
        await self.lock([key])
        return self._branches[key.shard(self.count)].statements

    async def changing(self, key: Key) -> Statements:
        """See Shards."""
        statements = await self.at(key)
        self._branches[key.shard(self.count)].is_changed = True
        return statements

    async def unlocked(self, number: int) -> Statements:
        """See Shards."""
        return (await self._branch(number)).statements

    async def _branch(self, number: int) -> Branch:
        if number not in self._branches:
            self._branches[number] = await Branch.begin(self._stack, self._engines[number], number, self._begin)
        return self._branches[number]


class SnapshotRead:
    """See Shards, for a read that raises NeedsLocks when it turns out to need more than one shard's snapshot. `begin` is what
    to run after PostgreSQL's BEGIN.
    """

    def __init__(self, stack: AsyncExitStack, engines: Sequence[PostgresqlEngine], begin: str) -> None:
        self._stack = stack
        self._engines = engines
        self._begin = begin
        self._seen: Branch | None = None
        self._others: dict[int, Branch] = {}

    @property
    def count(self) -> int:
        """See Shards."""
        return len(self._engines)

    async def lock(self, keys: Collection[Key]) -> None:
        """See Shards."""
        for key in keys:
            await self.at(key)

    async def at(self, key: Key) -> Statements:
        """See Shards."""
        number = key.shard(self.count)
        if self._seen is None:
            begin = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {self._begin}; {_SNAPSHOT}"
            try:
                self._seen = await Branch.begin(self._stack, self._engines[number], number, begin)
            except asyncpg.LockNotAvailableError:
                raise NeedsLocks from None
        if self._seen.number != number:
            raise NeedsLocks
        return self._seen.statements

    async def changing(self, key: Key) -> Statements:
        """See Shards: the server refuses changes."""
        return await self.at(key)

    async def unlocked(self, number: int) -> Statements:
        """See Shards."""
        if self._seen is not None and self._seen.number == number:
            return self._seen.statements
        if number not in self._others:
            begin = f"BEGIN READ ONLY; {self._begin}"
            self._others[number] = await Branch.begin(self._stack, self._engines[number], number, begin)
        return self._others[number].statements
