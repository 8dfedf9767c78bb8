"""Conversations and their members on SQL: see services.directory.ports for what each method promises."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, insert, select, tuple_, update

from services.directory.model import Conversation, Kind, Member, MemberRole
from services.storage.sql.engine import Statements
from services.storage.sql.schema import CONVERSATIONS, MEMBERS

# Built once: to build a statement costs more than SQLite needs to run it.
_WITH_MEMBERS = (
    select(CONVERSATIONS, MEMBERS.c.user_id, MEMBERS.c.role, MEMBERS.c.join_time_ms)
    .join_from(CONVERSATIONS, MEMBERS, CONVERSATIONS.c.conversation_id == MEMBERS.c.conversation_id)
    .order_by(CONVERSATIONS.c.conversation_id, MEMBERS.c.user_id)
)
_ONE = _WITH_MEMBERS.where(CONVERSATIONS.c.conversation_id == bindparam("id"))
_SOME = _WITH_MEMBERS.where(CONVERSATIONS.c.conversation_id.in_(bindparam("ids", expanding=True)))
_ADD = insert(CONVERSATIONS).from_select(
    CONVERSATIONS.c.keys(),
    select(*(bindparam(column.name, type_=column.type) for column in CONVERSATIONS.c)).where(
        ~exists().where(CONVERSATIONS.c.conversation_id == bindparam("conversation_id"))
    ),
)
_ADD_MEMBERS = insert(MEMBERS)


class SqlConversations:
    """See services.directory.ports.Conversations."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def find(self, conversation_id: str) -> Conversation | None:
        """See Conversations."""
        rows = await self._statements.execute(_ONE, {"id": conversation_id})
        return next(_conversations(rows), None)

    async def add(self, conversation: Conversation) -> bool:
        """See Conversations."""
        added = await self._statements.execute(
            _ADD,
            {
                "conversation_id": conversation.conversation_id,
                "kind": int(conversation.kind),
                "name": conversation.name,
                "create_time_ms": conversation.create_time_ms,
            },
        )
        if added.rowcount == 0:
            return False
        await self._insert_members(conversation.conversation_id, conversation.create_time_ms, conversation.members)
        return True

    async def remove(self, conversation_id: str) -> None:
        """See Conversations."""
        await self._statements.execute(delete(MEMBERS).where(MEMBERS.c.conversation_id == conversation_id))
        await self._statements.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.conversation_id == conversation_id))

    async def add_members(self, conversation_id: str, members: Sequence[Member]) -> None:
        """See Conversations."""
        rows = await self._statements.execute(
            select(CONVERSATIONS.c.create_time_ms).where(CONVERSATIONS.c.conversation_id == conversation_id)
        )
        await self._insert_members(conversation_id, rows.scalar_one(), members)

    async def _insert_members(self, conversation_id: str, conversation_time_ms: int, members: Sequence[Member]) -> None:
        if not members:
            return
        await self._statements.execute(
            _ADD_MEMBERS,
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
        await self._statements.execute(
            update(MEMBERS)
            .where(MEMBERS.c.conversation_id == conversation_id, MEMBERS.c.user_id == user_id)
            .values(role=int(role))
        )

    async def remove_member(self, conversation_id: str, user_id: str) -> None:
        """See Conversations."""
        await self._statements.execute(
            delete(MEMBERS).where(MEMBERS.c.conversation_id == conversation_id, MEMBERS.c.user_id == user_id)
        )

    async def page(self, user_id: str, before: tuple[int, str] | None, limit: int) -> Sequence[Conversation]:
        """See Conversations."""
        place = (MEMBERS.c.conversation_time_ms, MEMBERS.c.conversation_id)
        mine = select(MEMBERS.c.conversation_id).where(MEMBERS.c.user_id == user_id)
        if before is not None:
            mine = mine.where(tuple_(*place) < tuple_(*before))
        ids = list(await self._statements.scalars(mine.order_by(*(column.desc() for column in place)).limit(limit)))
        found = await self.find_some(ids)
        return [found[conversation_id] for conversation_id in ids]

    async def find_some(self, conversation_ids: Collection[str]) -> Mapping[str, Conversation]:
        """Those of the conversations that are there, by id, with all of their members."""
        if not conversation_ids:
            return {}
        rows = await self._statements.execute(_SOME, {"ids": list(conversation_ids)})
        return {conversation.conversation_id: conversation for conversation in _conversations(rows)}

    async def share(self, user_id: str, other_id: str) -> bool:
        """See Conversations."""
        mine, theirs = MEMBERS.alias(), MEMBERS.alias()
        shared = await self._statements.execute(
            select(mine.c.conversation_id)
            .join_from(mine, theirs, mine.c.conversation_id == theirs.c.conversation_id)
            .where(mine.c.user_id == user_id, theirs.c.user_id == other_id)
            .limit(1)
        )
        return shared.first() is not None


def _conversations(rows: Iterable[Row[*tuple[Any, ...]]]) -> Iterator[Conversation]:
    """One row for each member makes one conversation with its members."""
    for conversation_id, group in groupby(rows, key=lambda row: row.conversation_id):
        entries = list(group)
        first = entries[0]
        people = tuple(Member(row.user_id, MemberRole(row.role), row.join_time_ms) for row in entries)
        yield Conversation(conversation_id, Kind(first.kind), first.name, first.create_time_ms, people)
