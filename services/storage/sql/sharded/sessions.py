"""Sessions over shards, each beside its user; the shard of the session's id knows whose it is. See services.directory.ports for
what each method promises.
"""

from collections.abc import Collection

from sqlalchemy import delete, insert, select
from sqlalchemy.sql import ColumnElement

from services.directory.model import Session
from services.storage.sql.people import SqlSessions
from services.storage.sql.schema import SESSIONS
from services.storage.sql.sharded.keys import session_key, user_key
from services.storage.sql.sharded.schema import SESSION_OWNERS
from services.storage.sql.sharded.transactions import Shards


class ShardedSessions:
    """See services.directory.ports.Sessions."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def put(self, session: Session) -> None:
        """See Sessions."""
        owner_id = await self._owner(session.session_id)
        if owner_id not in (None, session.user_id):
            await self.remove(session.session_id)
            owner_id = None
        same_device = (SESSIONS.c.user_id == session.user_id) & (SESSIONS.c.device_id == session.device_id)
        await self._delete(session.user_id, same_device & (SESSIONS.c.session_id != session.session_id))
        await SqlSessions(await self._shards.changing(user_key(session.user_id))).put(session)
        if owner_id is None:
            owners = await self._shards.changing(session_key(session.session_id))
            await owners.execute(insert(SESSION_OWNERS).values(session_id=session.session_id, user_id=session.user_id))

    async def find(self, session_id: str) -> Session | None:
        """See Sessions."""
        owner_id = await self._owner(session_id)
        if owner_id is None:
            return None
        return await SqlSessions(await self._shards.at(user_key(owner_id))).find(session_id)

    async def remove(self, session_id: str) -> None:
        """See Sessions."""
        owner_id = await self._owner(session_id)
        if owner_id is not None:
            await self._delete(owner_id, SESSIONS.c.session_id == session_id)

    async def trim(self, user_id: str, most: int) -> None:
        """See Sessions."""
        table = SESSIONS.c
        kept = (
            select(table.session_id)
            .where(table.user_id == user_id)
            .order_by(table.refresh_time_ms.desc(), table.session_id)
            .limit(most)
        )
        await self._delete(user_id, table.session_id.not_in(kept.scalar_subquery()))

    async def prune(self, before_ms: int, limit: int) -> int:
        """See Sessions."""
        gone = 0
        for number in range(self._shards.count):
            if gone < limit:
                gone += await self._prune_shard(number, before_ms, limit - gone)
        return gone

    async def _prune_shard(self, number: int, before_ms: int, limit: int) -> int:
        table = SESSIONS.c
        ran_out = table.expire_time_ms < before_ms
        statements = await self._shards.unlocked(number)
        rows = await statements.execute(
            select(table.user_id, table.session_id)
            .where(ran_out)
            .order_by(table.expire_time_ms, table.session_id)
            .limit(limit)
        )
        found = [(row.user_id, row.session_id) for row in rows]
        if not found:
            return 0
        users = {user_key(user_id) for user_id, _ in found}
        session_ids = [session_id for _, session_id in found]
        await self._shards.lock([*users, *map(session_key, session_ids)])
        statements = await self._shards.changing(next(iter(users)))
        # One that was refreshed while its lock was waited for stays.
        gone = await statements.scalars(
            delete(SESSIONS).where(table.session_id.in_(session_ids), ran_out).returning(table.session_id)
        )
        return await self._forget_owners(list(gone))

    async def _owner(self, session_id: str) -> str | None:
        statements = await self._shards.at(session_key(session_id))
        owner_id: str | None = await statements.scalar(
            select(SESSION_OWNERS.c.user_id).where(SESSION_OWNERS.c.session_id == session_id)
        )
        return owner_id

    async def _delete(self, user_id: str, which: ColumnElement[bool]) -> None:
        """Forgets those of the user's sessions."""
        chosen = (SESSIONS.c.user_id == user_id) & which
        seen = await self._shards.at(user_key(user_id))
        session_ids = list(await seen.scalars(select(SESSIONS.c.session_id).where(chosen)))
        if not session_ids:
            return
        statements = await self._shards.changing(user_key(user_id))
        await statements.execute(delete(SESSIONS).where(SESSIONS.c.session_id.in_(session_ids)))
        await self._forget_owners(session_ids)

    async def _forget_owners(self, session_ids: Collection[str]) -> int:
        await self._shards.lock([session_key(session_id) for session_id in session_ids])
        for session_id in session_ids:
            owners = await self._shards.changing(session_key(session_id))
            await owners.execute(delete(SESSION_OWNERS).where(SESSION_OWNERS.c.session_id == session_id))
        return len(session_ids)
