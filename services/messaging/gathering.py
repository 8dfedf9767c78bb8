"""One call of an engine for what many partitions ask of it at the same time.

What comes while a call is underway gathers for the next: no timer, no delay when idle, and under load the cost of a
call is shared by all partitions of the process. Each caller gets the whole answer and takes its part.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, NoReturn, TypeVar

from discovery.errors import Unavailable
from services.delivery import UserEvent
from services.messaging.inbox_projection import Teller
from services.ports.message_store import ActivityPlace, ActivityRow, DedupKey, Head, InboxRow, MessageRow, MessageStore

_MOST_ITEMS = 4096
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gathering(Generic[Item, Answer]):
    """Calls `call` with the items of everyone who asked while the last call was underway, at most one call at a time."""

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Answer]]) -> None:
        self._call = call
        self._asked: list[tuple[Sequence[Item], asyncio.Future[Answer]]] = []
        self._news = asyncio.Event()

    async def ask(self, items: Sequence[Item]) -> Answer:
        """The answer of the call that holds these items, or what it raised. Needs run() to run."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((items, future))
        self._news.set()
        return await future

    async def run(self) -> NoReturn:
        """Makes the calls until cancelled."""
        while True:
            await self._news.wait()
            await self._answer(self._take())
            if not self._asked:
                self._news.clear()

    def _take(self) -> list[tuple[Sequence[Item], "asyncio.Future[Answer]"]]:
        """Who comes next, of those who have not given up: as many as fit into a call, but at least one."""
        taken: list[tuple[Sequence[Item], asyncio.Future[Answer]]] = []
        total = 0
        for asked in self._asked:
            total += len(asked[0])
            if taken and total > _MOST_ITEMS:
                break
            taken.append(asked)
        del self._asked[: len(taken)]
        return [asked for asked in taken if not asked[1].done()]

    async def _answer(self, taken: Sequence[tuple[Sequence[Item], "asyncio.Future[Answer]"]]) -> None:
        if not taken:
            return
        try:
            answer = await self._call([item for items, _ in taken for item in items])
        except Unavailable as error:
            _settle(taken, error)
        except Exception as error:  # noqa: BLE001 - it belongs to who asked
            if len(taken) == 1:
                _settle(taken, error)
            else:  # only the one whose items are at fault is to fail
                for asked in taken:
                    await self._answer([asked])
        else:
            for _, future in taken:
                if not future.done():
                    future.set_result(answer)


def _settle(taken: Sequence[tuple[Sequence[Item], "asyncio.Future[Answer]"]], error: Exception) -> None:
    for _, future in taken:
        if not future.done():
            future.set_exception(error)


class GatheringStore:
    """A ConversationStore and an InboxStore for the projections of all partitions, as far as they need them."""

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self._conversation_heads: Gathering[str, Mapping[str, Head]] = Gathering(store.conversation_heads)
        self._find_sent: Gathering[DedupKey, Mapping[DedupKey, MessageRow]] = Gathering(store.find_sent)
        self._put_messages: Gathering[MessageRow, None] = Gathering(store.put_messages)
        self._inbox_heads: Gathering[str, Mapping[str, Head]] = Gathering(store.inbox_heads)
        self._inbox_activity: Gathering[ActivityPlace, Mapping[ActivityPlace, ActivityRow]] = Gathering(
            store.inbox_activity
        )
        self._put_inbox: Gathering[InboxRow | ActivityRow, None] = Gathering(self._put_inbox_items)
        self._flush: Gathering[None, None] = Gathering(lambda _: store.flush())

    async def run(self) -> None:
        """Makes the calls until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._conversation_heads.run())
            group.create_task(self._find_sent.run())
            group.create_task(self._put_messages.run())
            group.create_task(self._inbox_heads.run())
            group.create_task(self._inbox_activity.run())
            group.create_task(self._put_inbox.run())
            group.create_task(self._flush.run())

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """See ConversationStore; the answer may hold more."""
        return await self._conversation_heads.ask(conversation_ids)

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """See ConversationStore; the answer may hold more."""
        return await self._find_sent.ask(keys)

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        """See ConversationStore."""
        await self._put_messages.ask(rows)

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """See InboxStore; the answer may hold more."""
        return await self._inbox_heads.ask(user_ids)

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore; the answer may hold more."""
        return await self._inbox_activity.ask(places)

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow]) -> None:
        """See InboxStore."""
        await self._put_inbox.ask([*rows, *activity])

    async def flush(self) -> None:
        """See MessageStore."""
        await self._flush.ask(())

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """See InboxStore."""
        return await self._store.read_inbox(user_id, after_pos, limit)

    async def _put_inbox_items(self, items: Sequence[InboxRow | ActivityRow]) -> None:
        await self._store.put_inbox(
            [item for item in items if isinstance(item, InboxRow)],
            [item for item in items if isinstance(item, ActivityRow)],
        )


class GatheringTeller:
    """A Teller for all partitions: connected devices are told once for what came to many inboxes."""

    def __init__(self, teller: Teller) -> None:
        self._gathering: Gathering[UserEvent, frozenset[str]] = Gathering(teller.to_users)

    async def run(self) -> None:
        """Makes the calls until cancelled."""
        await self._gathering.run()

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        """See Teller; the answer may hold users of others' events."""
        return await self._gathering.ask(events)
