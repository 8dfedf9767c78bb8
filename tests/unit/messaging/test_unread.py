"""What push asks of messaging: how much a user has not read, and how far the user has read a conversation."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hither.messaging.v1.messaging_pb2 import Message
from services.messaging.activity import follow
from services.messaging.unread import COUNTED_CONVERSATIONS, Unread
from services.ports.message_store import InboxRow, MarkRow, MessageStore
from services.storage.sqlite.messages import SqliteMessageStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MessageStore]:
    store = await SqliteMessageStore.open(tmp_path / "messages.db")
    yield store
    await store.close()


async def receive(store: MessageStore, *messages: tuple[str, int, str], first_pos: int = 1) -> None:
    """Has ann's inbox hold these messages: (conversation, seq, sender)."""
    rows = [
        InboxRow(
            "ann",
            pos,
            pos,
            conversation,
            seq,
            sender,
            Message(conversation_id=conversation, seq=seq).SerializeToString(),
        )
        for pos, (conversation, seq, sender) in enumerate(messages, first_pos)
    ]
    await store.put_inbox(rows, follow({}, rows))


async def seen(store: MessageStore, conversation_id: str, seq: int, user_id: str = "ann") -> None:
    await store.merge_marks([MarkRow(conversation_id, user_id, seq, seq)])


async def test_what_others_wrote_since_the_mark_is_unread_in_all_conversations(store: MessageStore) -> None:
    await receive(store, ("g.1", 1, "bob"), ("g.1", 2, "ann"), ("g.1", 3, "bob"), ("g.2", 1, "eve"), ("g.2", 2, "eve"))
    await seen(store, "g.2", 1)

    assert await Unread(store).of_user("ann", []) == (3, [])
    assert await Unread(store).of_user("nobody", []) == (0, [])


async def test_named_conversations_answer_in_the_order_of_the_request(store: MessageStore) -> None:
    await receive(store, ("g.1", 1, "bob"), ("g.2", 1, "eve"), ("g.2", 2, "eve"))
    await seen(store, "g.2", 2)

    assert await Unread(store).of_user("ann", ["g.2", "g.1", "g.2", "g.unknown"]) == (1, [2, 0, 2, 0])


@pytest.mark.parametrize("user_id", ["ann", "-", "+", "zz", "a.b@C_9"])
async def test_a_mark_is_found_beyond_the_conversations_that_are_counted(store: MessageStore, user_id: str) -> None:
    before, after = f"{user_id[:-1]}{chr(ord(user_id[-1]) - 1)}z", f"{user_id}-"
    for seq, other in enumerate((before, user_id, after), 7):
        await seen(store, "g.old", seq, other)
    await seen(store, "g.others", 9, before)
    await seen(store, "g.others", 9, after)

    assert await Unread(store).of_user(user_id, ["g.old", "g.others"]) == (0, [8, 0])


async def test_only_the_conversations_that_were_active_last_are_counted(store: MessageStore) -> None:
    await receive(store, *((f"g.{n}", 1, "bob") for n in range(COUNTED_CONVERSATIONS + 20)))
    await seen(store, "g.0", 1)

    count, [of_oldest, of_newest] = await Unread(store).of_user("ann", ["g.0", "g.519"])

    assert (count, of_oldest, of_newest) == (COUNTED_CONVERSATIONS, 1, 0)
