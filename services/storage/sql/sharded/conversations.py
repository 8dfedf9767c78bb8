"""Conversations over shards, each with its members on the shard of its id; beside each member stands that the user is one. See
services.directory.ports for what each method promises.
"""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, tuple_

from services.directory.model import Conversation, Member, MemberRole
from services.storage.sql.conversations import SqlConversations
from services.storage.sql.schema import CONVERSATIONS, MEMBERS
from services.storage.sql.sharded.keys import conversation_key, user_key
from services.storage.sql.sharded.schema import MEMBERSHIPS
from services.storage.sql.sharded.transactions import Shards
from services.storage.sql.shards import by_shard

_AT_ONCE = 500


class ShardedConversations:
    """See services.directory.ports.Conversations."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def find(self, conversation_id: str) -> Conversation | None:
        """See Conversations."""
        return await SqlConversations(await self._shards.at(conversation_key(conversation_id))).find(conversation_id)

    async def add(self, conversation: Conversation) -> bool:
        """See Conversations."""
        conversation_id = conversation.conversation_id
        if await self._create_time_ms(conversation_id) is not None:
            return False
        await SqlConversations(await self._shards.changing(conversation_key(conversation_id))).add(conversation)
        await self._tell(conversation_id, conversation.create_time_ms, conversation.members)
        return True

    async def remove(self, conversation_id: str) -> None:
        """See Conversations."""
        found = await self.find(conversation_id)
        if found is None:
            return
        await SqlConversations(await self._shards.changing(conversation_key(conversation_id))).remove(conversation_id)
        await self._untell(conversation_id, [member.user_id for member in found.members])

    async def add_members(self, conversation_id: str, members: Sequence[Member]) -> None:
        """See Conversations."""
        statements = await self._shards.changing(conversation_key(conversation_id))
        await SqlConversations(statements).add_members(conversation_id, members)
        create_time_ms = await self._create_time_ms(conversation_id)
        if create_time_ms is not None:
            await self._tell(conversation_id, create_time_ms, members)

    async def set_role(self, conversation_id: str, user_id: str, role: MemberRole) -> None:
        """See Conversations."""
        statements = await self._shards.changing(conversation_key(conversation_id))
        await SqlConversations(statements).set_role(conversation_id, user_id, role)

    async def remove_member(self, conversation_id: str, user_id: str) -> None:
        """See Conversations."""
        statements = await self._shards.changing(conversation_key(conversation_id))
        gone = await statements.execute(
            delete(MEMBERS).where(MEMBERS.c.conversation_id == conversation_id, MEMBERS.c.user_id == user_id)
        )
        if gone.rowcount:
            await self._untell(conversation_id, [user_id])

    async def page(self, user_id: str, before: tuple[int, str] | None, limit: int) -> Sequence[Conversation]:
        """See Conversations."""
        place = (MEMBERSHIPS.c.conversation_time_ms, MEMBERSHIPS.c.conversation_id)
        mine = select(MEMBERSHIPS.c.conversation_id).where(MEMBERSHIPS.c.user_id == user_id)
        if before is not None:
            mine = mine.where(tuple_(*place) < tuple_(*before))
        statements = await self._shards.at(user_key(user_id))
        ids = list(await statements.scalars(mine.order_by(*(column.desc() for column in place)).limit(limit)))
        await self._shards.lock([conversation_key(conversation_id) for conversation_id in ids])
        found: dict[str, Conversation] = {}
        for there in by_shard(ids, self._shards.count).values():
            found |= await SqlConversations(await self._shards.at(conversation_key(there[0]))).find_some(there)
        return [found[conversation_id] for conversation_id in ids]

    async def share(self, user_id: str, other_id: str) -> bool:
        """See Conversations. Looks through the user's conversations, some hundreds at a time."""
        await self._shards.lock([user_key(user_id), user_key(other_id)])
        mine, theirs = await self._shards.at(user_key(user_id)), await self._shards.at(user_key(other_id))
        after_id = ""
        while True:
            ids = list(
                await mine.scalars(
                    select(MEMBERSHIPS.c.conversation_id)
                    .where(MEMBERSHIPS.c.user_id == user_id, MEMBERSHIPS.c.conversation_id > after_id)
                    .order_by(MEMBERSHIPS.c.conversation_id)
                    .limit(_AT_ONCE)
                )
            )
            if not ids:
                return False
            shared = select(MEMBERSHIPS.c.conversation_id).where(
                MEMBERSHIPS.c.user_id == other_id, MEMBERSHIPS.c.conversation_id.in_(ids)
            )
            if await theirs.scalar(shared.limit(1)) is not None:
                return True
            after_id = ids[-1]

    async def _create_time_ms(self, conversation_id: str) -> int | None:
        statements = await self._shards.at(conversation_key(conversation_id))
        found: int | None = await statements.scalar(
            select(CONVERSATIONS.c.create_time_ms).where(CONVERSATIONS.c.conversation_id == conversation_id)
        )
        return found

    async def _tell(self, conversation_id: str, create_time_ms: int, members: Sequence[Member]) -> None:
        await self._shards.lock([user_key(member.user_id) for member in members])
        for user_ids in by_shard([member.user_id for member in members], self._shards.count).values():
            statements = await self._shards.changing(user_key(user_ids[0]))
            await statements.execute(
                insert(MEMBERSHIPS),
                [
                    {
                        "user_id": user_id,
                        "conversation_id": conversation_id,
                        "conversation_time_ms": create_time_ms,
                    }
                    for user_id in user_ids
                ],
            )

    async def _untell(self, conversation_id: str, former_ids: Sequence[str]) -> None:
        await self._shards.lock([user_key(user_id) for user_id in former_ids])
        for user_ids in by_shard(former_ids, self._shards.count).values():
            statements = await self._shards.changing(user_key(user_ids[0]))
            await statements.execute(
                delete(MEMBERSHIPS).where(
                    MEMBERSHIPS.c.user_id.in_(user_ids), MEMBERSHIPS.c.conversation_id == conversation_id
                )
            )
