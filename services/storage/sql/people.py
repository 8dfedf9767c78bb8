"""Users, friendships and sessions on SQL: see services.directory.ports for what each method promises."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Row, Select, bindparam, delete, func, insert, or_, select, update

from services.directory.model import Friendship, Pair, Session, Side, User
from services.storage.sql.engine import Statements
from services.storage.sql.schema import FRIENDSHIPS, SESSIONS, USERS

# Built once: to build a statement costs more than SQLite needs to run it.
_USERS = select(USERS.c.user_id, USERS.c.name, USERS.c.create_time_ms).where(
    USERS.c.user_id.in_(bindparam("ids", expanding=True))
)
_PAIR = select(FRIENDSHIPS.c.user_id, FRIENDSHIPS.c.side).where(
    or_(
        (FRIENDSHIPS.c.user_id == bindparam("one")) & (FRIENDSHIPS.c.friend_id == bindparam("other")),
        (FRIENDSHIPS.c.user_id == bindparam("other")) & (FRIENDSHIPS.c.friend_id == bindparam("one")),
    )
)


class SqlUsers:
    """See services.directory.ports.Users."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def add(self, user: User, password_hash: str) -> bool:
        """See Users."""
        taken = await self._statements.execute(select(USERS.c.user_id).where(USERS.c.user_id == user.user_id))
        if taken.first() is not None:
            return False
        await self._statements.execute(
            insert(USERS).values(
                user_id=user.user_id,
                name=user.name,
                password_hash=password_hash,
                create_time_ms=user.create_time_ms,
            )
        )
        return True

    async def find(self, user_ids: Collection[str]) -> Mapping[str, User]:
        """See Users."""
        if not user_ids:
            return {}
        rows = await self._statements.execute(_USERS, {"ids": list(user_ids)})
        return {row.user_id: User(row.user_id, row.name, row.create_time_ms) for row in rows}

    async def password_hash(self, user_id: str) -> str | None:
        """See Users."""
        found: str | None = await self._statements.scalar(
            select(USERS.c.password_hash).where(USERS.c.user_id == user_id)
        )
        return found

    async def set_password_hash(self, user_id: str, password_hash: str) -> None:
        """See Users."""
        await self._statements.execute(
            update(USERS).where(USERS.c.user_id == user_id).values(password_hash=password_hash)
        )


class SqlFriendships:
    """See services.directory.ports.Friendships."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def pair(self, user_id: str, other_id: str) -> Pair:
        """See Friendships."""
        rows = await self._statements.execute(_PAIR, {"one": user_id, "other": other_id})
        sides = {row.user_id: Side(row.side) for row in rows}
        return Pair(sides.get(user_id, Side.NONE), sides.get(other_id, Side.NONE))

    async def put_pair(self, user_id: str, other_id: str, pair: Pair, update_time_ms: int) -> None:
        """See Friendships."""
        before = await self.pair(user_id, other_id)
        if pair.mine is not before.mine:
            await self.put_side(user_id, other_id, pair.mine, update_time_ms)
        if pair.theirs is not before.theirs:
            await self.put_side(other_id, user_id, pair.theirs, update_time_ms)

    async def put_side(self, user_id: str, friend_id: str, side: Side, update_time_ms: int) -> None:
        """Stores one side; NONE forgets it."""
        table = FRIENDSHIPS.c
        await self._statements.execute(
            delete(FRIENDSHIPS).where(table.user_id == user_id, table.friend_id == friend_id)
        )
        if side is Side.NONE:
            return
        await self._statements.execute(
            insert(FRIENDSHIPS).values(
                user_id=user_id, friend_id=friend_id, side=int(side), update_time_ms=update_time_ms
            )
        )

    async def find(self, user_id: str, other_id: str) -> Friendship | None:
        """See Friendships."""
        rows = await self._statements.execute(
            _with_friends().where(FRIENDSHIPS.c.user_id == user_id, FRIENDSHIPS.c.friend_id == other_id)
        )
        row = rows.first()
        return None if row is None else _friendship(row)

    async def page(self, user_id: str, sides: Collection[Side], after_id: str, limit: int) -> Sequence[Friendship]:
        """See Friendships."""
        table = FRIENDSHIPS.c
        rows = await self._statements.execute(
            _with_friends()
            .where(table.user_id == user_id, table.friend_id > after_id, table.side.in_(_numbers(sides)))
            .order_by(table.friend_id)
            .limit(limit)
        )
        return [_friendship(row) for row in rows]

    async def friend_ids(self, user_id: str, limit: int) -> Sequence[str]:
        """See Friendships."""
        table = FRIENDSHIPS.c
        rows = await self._statements.scalars(
            select(table.friend_id)
            .where(table.user_id == user_id, table.side == int(Side.ACCEPTED))
            .order_by(table.friend_id)
            .limit(limit)
        )
        return list(rows)

    async def friends_among(self, user_id: str, other_ids: Collection[str]) -> frozenset[str]:
        """See Friendships."""
        if not other_ids:
            return frozenset()
        table = FRIENDSHIPS.c
        rows = await self._statements.scalars(
            select(table.friend_id).where(
                table.user_id == user_id, table.friend_id.in_(other_ids), table.side == int(Side.ACCEPTED)
            )
        )
        return frozenset(rows)

    async def count(self, user_id: str, sides: Collection[Side]) -> int:
        """See Friendships."""
        found = await self._statements.scalar(
            select(func.count())
            .select_from(FRIENDSHIPS)
            .where(FRIENDSHIPS.c.user_id == user_id, FRIENDSHIPS.c.side.in_(_numbers(sides)))
        )
        return found or 0


def _with_friends() -> Select[str, str, int, int, int]:
    return select(
        USERS.c.user_id, USERS.c.name, USERS.c.create_time_ms, FRIENDSHIPS.c.side, FRIENDSHIPS.c.update_time_ms
    ).join_from(FRIENDSHIPS, USERS, FRIENDSHIPS.c.friend_id == USERS.c.user_id)


def _friendship(row: Row[str, str, int, int, int]) -> Friendship:
    return Friendship(User(row.user_id, row.name, row.create_time_ms), Side(row.side), row.update_time_ms)


def _numbers(sides: Collection[Side]) -> list[int]:
    return sorted(int(side) for side in sides)


class SqlSessions:
    """See services.directory.ports.Sessions."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def put(self, session: Session) -> None:
        """See Sessions."""
        table = SESSIONS.c
        await self._statements.execute(
            delete(SESSIONS).where(
                or_(
                    table.session_id == session.session_id,
                    (table.user_id == session.user_id) & (table.device_id == session.device_id),
                )
            )
        )
        await self._statements.execute(
            insert(SESSIONS).values(
                session_id=session.session_id,
                user_id=session.user_id,
                device_id=session.device_id,
                token_hash=session.token_hash,
                refresh_time_ms=session.refresh_time_ms,
                expire_time_ms=session.expire_time_ms,
            )
        )

    async def find(self, session_id: str) -> Session | None:
        """See Sessions."""
        rows = await self._statements.execute(select(SESSIONS).where(SESSIONS.c.session_id == session_id))
        row = rows.first()
        if row is None:
            return None
        return Session(
            session_id=row.session_id,
            user_id=row.user_id,
            device_id=row.device_id,
            token_hash=row.token_hash,
            refresh_time_ms=row.refresh_time_ms,
            expire_time_ms=row.expire_time_ms,
        )

    async def remove(self, session_id: str) -> None:
        """See Sessions."""
        await self._statements.execute(delete(SESSIONS).where(SESSIONS.c.session_id == session_id))

    async def trim(self, user_id: str, most: int) -> None:
        """See Sessions."""
        table = SESSIONS.c
        kept = (
            select(table.session_id)
            .where(table.user_id == user_id)
            .order_by(table.refresh_time_ms.desc(), table.session_id)
            .limit(most)
        )
        await self._statements.execute(
            delete(SESSIONS).where(table.user_id == user_id, table.session_id.not_in(kept.scalar_subquery()))
        )

    async def prune(self, before_ms: int, limit: int) -> int:
        """See Sessions."""
        table = SESSIONS.c
        oldest = (
            select(table.session_id)
            .where(table.expire_time_ms < before_ms)
            .order_by(table.expire_time_ms, table.session_id)
            .limit(limit)
        )
        gone = await self._statements.execute(delete(SESSIONS).where(table.session_id.in_(oldest.scalar_subquery())))
        return gone.rowcount
