"""Pages of conversations, inboxes and marks; reading and typing."""

from collections.abc import Sequence

import pytest

from discovery.errors import InvalidArgument, PermissionDenied
from hither.messaging.v1 import messaging_pb2
from hither.messaging.v1 import messaging_service_pb2 as pb
from services.delivery import UserEvent
from services.messaging.activity import follow
from services.messaging.history import History
from services.messaging.marks import Marks
from services.messaging.membership import Members, Memberships
from services.messaging.reading import ConversationReads
from services.messaging.settings import MessagingSettings
from services.messaging.signals import Signals
from services.messaging.tails import Tails
from services.ports.message_store import InboxRow, MarkRow, MessageRow
from tests.support.clock import ManualClock
from tests.support.memory_ports import Disk, Life, MemoryStore

PAYLOAD_BYTES = 40


async def resolve(conversation_id: str, sender_id: str, peer_id: str) -> Members:
    if sender_id == "eve":
        raise PermissionDenied(reason="NOT_A_MEMBER")
    if conversation_id == "d.blocked":
        raise PermissionDenied(reason="BLOCKED")
    return ("ann", "ben", "cat")


class Library:
    """A store with things to read, and who reads."""

    def __init__(self, page_bytes: int = 10_000) -> None:
        settings = MessagingSettings(page_bytes=page_bytes)
        self.disk = Disk()
        self.store = MemoryStore(self.disk, Life())
        self.events: list[UserEvent] = []
        memberships = Memberships(resolve, ManualClock(), settings)
        self.signals = Signals(self, most=100)
        reads = ConversationReads(self.store, self.store.conversation_heads, Tails(100, 1_000_000))
        self.history = History(reads, self.store, memberships, settings)
        self.marks = Marks(self.store, memberships, self.signals)

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        self.events += events
        return frozenset()

    def offered(self) -> list[UserEvent]:
        return list(self.signals._events.values())

    def fill(self, conversation_id: str, count: int, reader: str = "ann") -> None:
        for seq in range(1, count + 1):
            message = messaging_pb2.Message(conversation_id=conversation_id, seq=seq, sender_id="ben", text="x" * 25)
            payload = message.SerializeToString()
            row = MessageRow(conversation_id, seq, "ben", f"c{seq}", seq, payload)
            self.disk.messages[conversation_id][seq] = row
            pos = len(self.disk.inboxes[reader]) + 1
            inbox_row = InboxRow(reader, pos, pos, conversation_id, seq, "ben", payload)
            self.disk.inboxes[reader][pos] = inbox_row
            (self.disk.activity[reader, conversation_id],) = follow(self.disk.activity, [inbox_row])

    async def page(self, **fields: object) -> tuple[list[int], str]:
        request = pb.ListMessagesRequest(conversation_id="g.1", **fields)  # type: ignore[arg-type]
        response = await self.history.list_messages(request, "ann")
        return [message.seq for message in response.messages], response.next_page_token


@pytest.fixture
def library() -> Library:
    library = Library()
    library.fill("g.1", 7)
    return library


async def test_without_bounds_pages_go_back_from_the_newest(library: Library) -> None:
    first, token = await library.page(limit=3)
    second, token = await library.page(limit=3, page_token=token)
    third, end = await library.page(limit=3, page_token=token)

    assert (first, second, third, end) == ([5, 6, 7], [2, 3, 4], [1], "")


async def test_before_a_place_pages_go_back_from_it(library: Library) -> None:
    assert (await library.page(before_seq=4, limit=2))[0] == [2, 3]


async def test_after_a_place_pages_go_forward_from_it(library: Library) -> None:
    first, token = await library.page(after_seq=2, before_seq=7, limit=3)
    second, end = await library.page(after_seq=2, before_seq=7, limit=3, page_token=token)

    assert (first, second, end) == ([3, 4, 5], [6], "")


async def test_a_page_token_serves_only_the_request_it_was_made_for(library: Library) -> None:
    _, token = await library.page(limit=3)

    with pytest.raises(InvalidArgument) as caught:
        await library.page(after_seq=2, limit=3, page_token=token)

    assert caught.value.reason == "BAD_PAGE_TOKEN"


@pytest.mark.parametrize("bounds", [{}, {"after_seq": 1}])
async def test_a_page_ends_early_rather_than_grow_too_large(bounds: dict[str, int]) -> None:
    library = Library(page_bytes=2 * PAYLOAD_BYTES)
    library.fill("g.1", 5)

    seqs, token = await library.page(limit=4, **bounds)

    assert seqs == ([2, 3] if bounds else [4, 5])
    assert token


async def test_who_is_not_a_member_reads_nothing(library: Library) -> None:
    with pytest.raises(PermissionDenied):
        await library.history.list_messages(pb.ListMessagesRequest(conversation_id="g.1"), "eve")
    with pytest.raises(PermissionDenied):
        await library.history.list_marks(pb.ListMarksRequest(conversation_id="g.1"), "eve")
    with pytest.raises(PermissionDenied):
        await library.marks.mark_read("g.1", "eve", 1)
    with pytest.raises(PermissionDenied):
        await library.marks.typing("g.1", "eve")


async def test_a_sync_goes_page_by_page_and_ends_with_the_marks(library: Library) -> None:
    library.disk.marks["g.1", "ben"] = MarkRow("g.1", "ben", 7, 5)
    library.disk.marks["g.1", "ann"] = MarkRow("g.1", "ann", 7, 6)

    first = await library.history.sync_inbox(pb.SyncInboxRequest(user_id="ann", pos=2, limit=3))
    last = await library.history.sync_inbox(pb.SyncInboxRequest(user_id="ann", pos=first.next_pos, limit=3))

    assert [event.pos for event in first.events] == [3, 4, 5]
    assert first.more
    assert first.events[0].message.message.seq == 3
    assert [event.pos for event in last.events] == [6, 7, 0, 0, 0]
    assert (last.next_pos, last.more) == (7, False)
    marks = [(mark.message_status.user_id, mark.message_status.seq) for mark in last.events[2:]]
    assert marks == [("ann", 6), ("ben", 7), ("ben", 5)]


async def test_a_sync_that_finds_nothing_stays_where_it_is(library: Library) -> None:
    page = await library.history.sync_inbox(pb.SyncInboxRequest(user_id="ann", pos=7))

    assert (list(page.events), page.next_pos, page.more) == ([], 7, False)


async def test_marks_are_paged_by_user(library: Library) -> None:
    for user_id in ("ann", "ben", "cat"):
        library.disk.marks["g.1", user_id] = MarkRow("g.1", user_id, 2, 1)

    first = await library.history.list_marks(pb.ListMarksRequest(conversation_id="g.1", page_size=2), "ann")
    last = await library.history.list_marks(
        pb.ListMarksRequest(conversation_id="g.1", page_size=2, page_token=first.next_page_token), "ann"
    )

    assert [mark.user_id for mark in first.marks] == ["ann", "ben"]
    assert [(mark.user_id, mark.delivered_seq, mark.seen_seq) for mark in last.marks] == [("cat", 2, 1)]
    assert last.next_page_token == ""


async def test_reading_marks_up_to_the_end_at_most_and_tells_all_members_and_one_s_own_devices(
    library: Library,
) -> None:
    await library.marks.mark_read("g.1", "ann", 2**62)

    assert library.disk.marks["g.1", "ann"] == MarkRow("g.1", "ann", 7, 7)
    assert [event.user_id for event in library.offered()] == ["ann", "ben", "cat"]
    status = messaging_pb2.MessageStatusEvent.FromString(library.offered()[0].payload)
    assert (status.seq, status.status, status.user_id) == (7, messaging_pb2.MESSAGE_STATUS_SEEN, "ann")
    assert library.offered()[0].conflation_key == "status:g.1:ann:SEEN"


async def test_reading_less_than_before_changes_and_tells_nothing(library: Library) -> None:
    library.disk.marks["g.1", "ann"] = MarkRow("g.1", "ann", 7, 6)

    await library.marks.mark_read("g.1", "ann", 3)

    assert library.disk.marks["g.1", "ann"] == MarkRow("g.1", "ann", 7, 6)
    assert library.offered() == []


async def test_reading_where_one_is_blocked_tells_one_s_own_devices_only(library: Library) -> None:
    library.fill("d.blocked", 1)

    await library.marks.mark_read("d.blocked", "ann", 1)

    assert [event.user_id for event in library.offered()] == ["ann"]


async def test_typing_tells_the_others_the_newest_only(library: Library) -> None:
    await library.marks.typing("g.1", "ann")
    await library.marks.typing("g.1", "ann")

    assert [event.user_id for event in library.offered()] == ["ben", "cat"]
    assert library.offered()[0].conflation_key == "typing:g.1:ann"


async def test_typing_where_one_is_blocked_is_refused(library: Library) -> None:
    with pytest.raises(PermissionDenied):
        await library.marks.typing("d.blocked", "ann")


async def test_conversations_are_paged_from_the_last_active_one_on_with_what_is_unread(library: Library) -> None:
    library.fill("g.2", 2)
    library.fill("g.3", 4)
    library.disk.marks["g.3", "ann"] = MarkRow("g.3", "ann", 4, 3)
    library.disk.marks["g.1", "ann"] = MarkRow("g.1", "ann", 7, 7)

    first = await library.history.list_conversations(pb.ListInboxConversationsRequest(user_id="ann", page_size=2))
    last = await library.history.list_conversations(
        pb.ListInboxConversationsRequest(user_id="ann", page_size=2, page_token=first.next_page_token)
    )

    listed = [
        (item.conversation_id, item.last_message.seq, item.unread_count, item.seen_seq)
        for item in [*first.conversations, *last.conversations]
    ]
    assert listed == [("g.3", 4, 1, 3), ("g.2", 2, 2, 0), ("g.1", 7, 0, 7)]
    assert [len(page.conversations) for page in (first, last)] == [2, 1]
    assert last.next_page_token == ""


async def test_a_token_of_another_user_lists_no_conversations(library: Library) -> None:
    library.fill("g.2", 2)
    page = await library.history.list_conversations(pb.ListInboxConversationsRequest(user_id="ann", page_size=1))

    with pytest.raises(InvalidArgument):
        await library.history.list_conversations(
            pb.ListInboxConversationsRequest(user_id="ben", page_token=page.next_page_token)
        )
