"""Users, friendships and answers over shards: see services.directory.ports for what each method promises."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import delete, select, tuple_

from services.directory.model import Answer, AnswerKey, Friendship, Pair, Side, User
from services.storage.sql.answers import SqlAnswers
from services.storage.sql.people import SqlFriendships, SqlUsers
from services.storage.sql.schema import ANSWERS, FRIENDSHIPS
from services.storage.sql.sharded.failures import LostRace
from services.storage.sql.sharded.keys import answer_key, user_key
from services.storage.sql.sharded.transactions import Shards
from services.storage.sql.shards import by_shard


class ShardedUsers:
    """See services.directory.ports.Users. Each is on the shard of its id."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def add(self, user: User, password_hash: str) -> bool:
        """See Users."""
        if await SqlUsers(await self._shards.at(user_key(user.user_id))).find([user.user_id]):
            return False
        return await SqlUsers(await self._shards.changing(user_key(user.user_id))).add(user, password_hash)

    async def find(self, user_ids: Collection[str]) -> Mapping[str, User]:
        """See Users."""
        await self._shards.lock([user_key(user_id) for user_id in user_ids])
        return await self.find_unlocked(user_ids)

    async def find_unlocked(self, user_ids: Collection[str]) -> Mapping[str, User]:
        """Those that exist, which is for ever, as they are, which never changes. Others may exist in a moment."""
        found: dict[str, User] = {}
        for number, ids in by_shard(user_ids, self._shards.count).items():
            found |= await SqlUsers(await self._shards.unlocked(number)).find(ids)
        return found

    async def password_hash(self, user_id: str) -> str | None:
        """See Users."""
        return await SqlUsers(await self._shards.at(user_key(user_id))).password_hash(user_id)

    async def set_password_hash(self, user_id: str, password_hash: str) -> None:
        """See Users."""
        await SqlUsers(await self._shards.changing(user_key(user_id))).set_password_hash(user_id, password_hash)


class ShardedFriendships:
    """See services.directory.ports.Friendships. Each side is beside its user."""

    def __init__(self, shards: Shards, users: ShardedUsers) -> None:
        self._shards = shards
        self._users = users

    async def pair(self, user_id: str, other_id: str) -> Pair:
        """See Friendships."""
        await self._shards.lock([user_key(user_id), user_key(other_id)])
        return Pair(await self._side(user_id, other_id), await self._side(other_id, user_id))

    async def put_pair(self, user_id: str, other_id: str, pair: Pair, update_time_ms: int) -> None:
        """See Friendships."""
        before = await self.pair(user_id, other_id)
        if pair.mine is not before.mine:
            mine = await self._shards.changing(user_key(user_id))
            await SqlFriendships(mine).put_side(user_id, other_id, pair.mine, update_time_ms)
        if pair.theirs is not before.theirs:
            theirs = await self._shards.changing(user_key(other_id))
            await SqlFriendships(theirs).put_side(other_id, user_id, pair.theirs, update_time_ms)

    async def find(self, user_id: str, other_id: str) -> Friendship | None:
        """See Friendships."""
        table = FRIENDSHIPS.c
        statements = await self._shards.at(user_key(user_id))
        rows = await statements.execute(
            select(table.friend_id, table.side, table.update_time_ms).where(
                table.user_id == user_id, table.friend_id == other_id
            )
        )
        found = await self._with_friends([(row.friend_id, row.side, row.update_time_ms) for row in rows])
        return found[0] if found else None

    async def page(self, user_id: str, sides: Collection[Side], after_id: str, limit: int) -> Sequence[Friendship]:
        """See Friendships."""
        table = FRIENDSHIPS.c
        numbers = sorted(int(side) for side in sides)
        statements = await self._shards.at(user_key(user_id))
        rows = await statements.execute(
            select(table.friend_id, table.side, table.update_time_ms)
            .where(table.user_id == user_id, table.friend_id > after_id, table.side.in_(numbers))
            .order_by(table.friend_id)
            .limit(limit)
        )
        return await self._with_friends([(row.friend_id, row.side, row.update_time_ms) for row in rows])

    async def friend_ids(self, user_id: str, limit: int) -> Sequence[str]:
        """See Friendships."""
        return await SqlFriendships(await self._shards.at(user_key(user_id))).friend_ids(user_id, limit)

    async def friends_among(self, user_id: str, other_ids: Collection[str]) -> frozenset[str]:
        """See Friendships."""
        return await SqlFriendships(await self._shards.at(user_key(user_id))).friends_among(user_id, other_ids)

    async def count(self, user_id: str, sides: Collection[Side]) -> int:
        """See Friendships."""
        return await SqlFriendships(await self._shards.at(user_key(user_id))).count(user_id, sides)

    async def _side(self, user_id: str, friend_id: str) -> Side:
        table = FRIENDSHIPS.c
        statements = await self._shards.at(user_key(user_id))
        side = await statements.scalar(select(table.side).where(table.user_id == user_id, table.friend_id == friend_id))
        return Side.NONE if side is None else Side(side)

    async def _with_friends(self, rows: Sequence[tuple[str, int, int]]) -> Sequence[Friendship]:
        """A friend existed before the friendship did. One that is not there is about to be, by the same transaction."""
        friends = await self._users.find_unlocked([friend_id for friend_id, _, _ in rows])
        if len(friends) < len(rows):
            raise LostRace
        return [Friendship(friends[friend_id], Side(side), time_ms) for friend_id, side, time_ms in rows]


class ShardedAnswers:
    """See services.directory.ports.Answers. Each is beside its caller."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def find(self, key: AnswerKey) -> Answer | None:
        """See Answers."""
        return await SqlAnswers(await self._shards.at(answer_key(key))).find(key)

    async def add(self, key: AnswerKey, answer: Answer) -> None:
        """See Answers."""
        await SqlAnswers(await self._shards.changing(answer_key(key))).add(key, answer)

    async def prune(self, before_ms: int, limit: int) -> int:
        """See Answers. The oldest of each shard first."""
        gone = 0
        for number in range(self._shards.count):
            if gone < limit:
                gone += await self._prune_shard(number, before_ms, limit - gone)
        return gone

    async def _prune_shard(self, number: int, before_ms: int, limit: int) -> int:
        place = (ANSWERS.c.caller_id, ANSWERS.c.method, ANSWERS.c.request_id)
        old = ANSWERS.c.create_time_ms < before_ms
        statements = await self._shards.unlocked(number)
        rows = await statements.execute(
            select(*place).where(old).order_by(ANSWERS.c.create_time_ms, *place).limit(limit)
        )
        keys = [AnswerKey(row.caller_id, row.method, row.request_id) for row in rows]
        if not keys:
            return 0
        await self._shards.lock([answer_key(key) for key in keys])
        statements = await self._shards.changing(answer_key(keys[0]))
        places = [(key.caller_id, key.method, key.request_id) for key in keys]
        # One that went and came again while its lock was waited for is young.
        deleted = await statements.execute(delete(ANSWERS).where(tuple_(*place).in_(places), old))
        return deleted.rowcount
