"""Conversations and their members on SQL: see services.directory.ports for what each method promises."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from sqlalchemy import delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.directory.model import Conversation, Kind, Member, MemberRole
from services.storage.sql.schema import CONVERSATIONS, MEMBERS


class SqlConversations:
    """See services.directory.ports.Conversations."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, conversation_id: str) -> Conversation | None:
        """See Conversations."""
        return (await self._find_all([conversation_id])).get(conversation_id)

    async def add(self, conversation: Conversation) -> None:
        """See Conversations."""
        await self._connection.execute(
            insert(CONVERSATIONS).values(
                conversation_id=conversation.conversation_id,
                kind=int(conversation.kind),
                name=conversation.name,
                create_time_ms=conversation.create_time_ms,
            )
        )
        await self._insert_members(conversation.conversation_id, conversation.create_time_ms, conversation.members)

    async def remove(self, conversation_id: str) -> None:
        """See Conversations."""
        await self._connection.execute(delete(MEMBERS).where(MEMBERS.c.conversation_id == conversation_id))
        await self._connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.conversation_id == conversation_id))

    async def add_members(self, conversation_id: str, members: Sequence[Member]) -> None:
        """See Conversations."""
        rows = await self._connection.execute(
            select(CONVERSATIONS.c.create_time_ms).where(CONVERSATIONS.c.conversation_id == conversation_id)
        )
        await self._insert_members(conversation_id, rows.scalar_one(), members)

    async def _insert_members(self, conversation_id: str, conversation_time_ms: int, members: Sequence[Member]) -> None:
        if not members:
            return
        await self._connection.execute(
            insert(MEMBERS),
            [
                {
                    "conversation_id": conversation_id,
                    "user_id": member.user_id,
                    "role": int(member.role),
                    "join_time_ms": member.join_time_ms,
                    "conversation_time_ms": conversation_time_ms,
                }
                for member in members
            ],
        )

    async def set_role(self, conversation_id: str, user_id: str, role: MemberRole) -> None:
        """See Conversations."""
        await self._connection.execute(
            update(MEMBERS)
            .where(MEMBERS.c.conversation_id == conversation_id, MEMBERS.c.user_id == user_id)
            .values(role=int(role))
        )

    async def remove_member(self, conversation_id: str, user_id: str) -> None:
        """See Conversations."""
        await self._connection.execute(
            delete(MEMBERS).where(MEMBERS.c.conversation_id == conversation_id, MEMBERS.c.user_id == user_id)
        )

    async def page(self, user_id: str, before: tuple[int, str] | None, limit: int) -> Sequence[Conversation]:
        """See Conversations."""
        place = (MEMBERS.c.conversation_time_ms, MEMBERS.c.conversation_id)
        mine = select(MEMBERS.c.conversation_id).where(MEMBERS.c.user_id == user_id)
        if before is not None:
            mine = mine.where(tuple_(*place) < tuple_(*before))
        ids = list(await self._connection.scalars(mine.order_by(*(column.desc() for column in place)).limit(limit)))
        found = await self._find_all(ids)
        return [found[conversation_id] for conversation_id in ids]

    async def _find_all(self, conversation_ids: Sequence[str]) -> Mapping[str, Conversation]:
        """One row for each member, so that a conversation and its members come in one question."""
        if not conversation_ids:
            return {}
        conversations, members = CONVERSATIONS.c, MEMBERS.c
        rows = await self._connection.execute(
            select(CONVERSATIONS, members.user_id, members.role, members.join_time_ms)
            .join_from(CONVERSATIONS, MEMBERS, conversations.conversation_id == members.conversation_id)
            .where(conversations.conversation_id.in_(conversation_ids))
            .order_by(conversations.conversation_id, members.user_id)
        )
        found: dict[str, Conversation] = {}
        for conversation_id, group in groupby(rows, key=lambda row: row.conversation_id):
            entries = list(group)
            first = entries[0]
            people = tuple(Member(row.user_id, MemberRole(row.role), row.join_time_ms) for row in entries)
            found[conversation_id] = Conversation(
                conversation_id, Kind(first.kind), first.name, first.create_time_ms, people
            )
        return found

    async def share(self, user_id: str, other_id: str) -> bool:
        """See Conversations."""
        mine, theirs = MEMBERS.alias(), MEMBERS.alias()
        shared = await self._connection.execute(
            select(mine.c.conversation_id)
            .join_from(mine, theirs, mine.c.conversation_id == theirs.c.conversation_id)
            .where(mine.c.user_id == user_id, theirs.c.user_id == other_id)
            .limit(1)
        )
        return shared.first() is not None
