"""Reading back: pages of a conversation, of an inbox and of its conversations.

A page ends at its limit, or earlier at a number of bytes.
"""

from collections.abc import Iterable

from discovery.errors import InvalidArgument
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from services.messaging.activity import unread_count
from services.messaging.membership import Memberships
from services.messaging.reading import ConversationReads
from services.messaging.settings import MessagingSettings
from services.messaging.tails import NO_BOUND, Asked
from services.paging import decode_token, encode_token
from services.ports.message_store import MarkRow, MessageStore

_DEFAULT_MESSAGES = 50
_DEFAULT_EVENTS = 100
_DEFAULT_MARKS = 100
_DEFAULT_CONVERSATIONS = 50
_MARKED_CONVERSATIONS = 50
_MOST_STATUS_EVENTS = 100


class History:
    """Pages for those who may read them."""

    def __init__(
        self, reads: ConversationReads, store: MessageStore, memberships: Memberships, settings: MessagingSettings
    ) -> None:
        self._reads = reads
        self._store = store
        self._memberships = memberships
        self._page_bytes = settings.page_bytes

    async def list_messages(
        self, request: messaging_service_pb2.ListMessagesRequest, user_id: str
    ) -> messaging_service_pb2.ListMessagesResponse:
        """A page of a conversation: from its end backwards, or after a place forwards. Raises NOT_A_MEMBER, BAD_PAGE_TOKEN."""
        await self._memberships.readers(request.conversation_id, user_id)
        list_name = f"messages {request.conversation_id} {request.after_seq} {request.before_seq}"
        after, before = request.after_seq, request.before_seq or NO_BOUND
        backwards = request.after_seq == 0
        token = decode_token(list_name, request.page_token, 1)
        if token is not None:
            place = _number(token[0])
            after, before = (after, place) if backwards else (place, before)
        limit = request.limit or _DEFAULT_MESSAGES
        # Seqs are contiguous from 1: backwards there is more exactly if the page does not begin with 1.
        asked = Asked(after, before, limit if backwards else limit + 1, backwards)
        span = await self._reads.read(request.conversation_id, asked)
        payloads, first = span.payloads, span.first_seq
        fitting = _fitting(reversed(payloads) if backwards else payloads, self._page_bytes)
        response = messaging_service_pb2.ListMessagesResponse()
        if backwards:
            first += len(payloads) - fitting
            payloads = payloads[len(payloads) - fitting :]
            if payloads and first > 1:
                response.next_page_token = encode_token(list_name, str(first))
        elif min(fitting, limit) < len(payloads):
            payloads = payloads[: min(fitting, limit)]
            response.next_page_token = encode_token(list_name, str(first + len(payloads) - 1))
        for payload in payloads:
            response.messages.add().MergeFromString(payload)
        return response

    async def sync_inbox(
        self, request: messaging_service_pb2.SyncInboxRequest
    ) -> messaging_service_pb2.SyncInboxResponse:
        """A page of the user's inbox; the last one ends with the current marks."""
        limit = request.limit or _DEFAULT_EVENTS
        rows = await self._store.read_inbox(request.user_id, request.pos, limit + 1)
        page = rows[: min(limit, _fitting([row.payload for row in rows], self._page_bytes))]
        response = messaging_service_pb2.SyncInboxResponse(
            next_pos=page[-1].pos if page else request.pos, more=len(page) < len(rows)
        )
        for row in page:
            response.events.add(pos=row.pos).message.message.MergeFromString(row.payload)
        if not response.more:
            marks = await self._store.recent_marks(request.user_id, _MARKED_CONVERSATIONS)
            events = [event for mark in marks for event in status_events(mark, request.user_id)]
            for event in events[:_MOST_STATUS_EVENTS]:
                response.events.add(message_status=event)
        return response

    async def list_conversations(
        self, request: messaging_service_pb2.ListInboxConversationsRequest
    ) -> messaging_service_pb2.ListInboxConversationsResponse:
        """A page of the user's conversations, the last active first. Raises BAD_PAGE_TOKEN."""
        list_name = f"conversations {request.user_id}"
        token = decode_token(list_name, request.page_token, 1)
        limit = request.page_size or _DEFAULT_CONVERSATIONS
        found = await self._store.list_activity(request.user_id, _number(token[0]) if token else NO_BOUND, limit + 1)
        page = found[: min(limit, _fitting([activity.payload for activity in found], self._page_bytes))]
        response = messaging_service_pb2.ListInboxConversationsResponse()
        for activity in page:
            listed = response.conversations.add(
                conversation_id=activity.row.conversation_id,
                unread_count=unread_count(activity.row, activity.seen_seq),
                seen_seq=activity.seen_seq,
            )
            listed.last_message.MergeFromString(activity.payload)
        if len(page) < len(found):
            response.next_page_token = encode_token(list_name, str(page[-1].row.last_pos))
        return response

    async def list_marks(
        self, request: messaging_service_pb2.ListMarksRequest, user_id: str
    ) -> messaging_service_pb2.ListMarksResponse:
        """A page of a conversation's marks, in order of user id. Raises NOT_A_MEMBER, BAD_PAGE_TOKEN."""
        await self._memberships.readers(request.conversation_id, user_id)
        list_name = f"marks {request.conversation_id}"
        token = decode_token(list_name, request.page_token, 1)
        limit = request.page_size or _DEFAULT_MARKS
        rows = await self._store.read_marks(request.conversation_id, token[0] if token else "", limit + 1)
        response = messaging_service_pb2.ListMarksResponse()
        for row in rows[:limit]:
            response.marks.add(
                conversation_id=row.conversation_id,
                user_id=row.user_id,
                delivered_seq=row.delivered_seq,
                seen_seq=row.seen_seq,
            )
        if len(rows) > limit:
            response.next_page_token = encode_token(list_name, rows[limit - 1].user_id)
        return response


def status_events(mark: MarkRow, reader_id: str) -> list[messaging_pb2.MessageStatusEvent]:
    """What a mark means to one who reads it: what others have received and seen, and what the reader has seen elsewhere."""
    events = []
    if mark.delivered_seq > mark.seen_seq and mark.user_id != reader_id:
        events.append(status_event(mark, mark.delivered_seq, messaging_pb2.MESSAGE_STATUS_DELIVERED))
    if mark.seen_seq:
        events.append(status_event(mark, mark.seen_seq, messaging_pb2.MESSAGE_STATUS_SEEN))
    return events


def status_event(
    mark: MarkRow, seq: int, status: messaging_pb2.MessageStatus.ValueType
) -> messaging_pb2.MessageStatusEvent:
    """All messages of the mark's conversation up to `seq` have reached the status for its user."""
    return messaging_pb2.MessageStatusEvent(
        conversation_id=mark.conversation_id, seq=seq, status=status, user_id=mark.user_id
    )


def _fitting(payloads: Iterable[bytes], most_bytes: int) -> int:
    """How many of them fit on a page from the first on, at least one if there is one."""
    total = count = 0
    for payload in payloads:
        total += len(payload)
        if total > most_bytes and count:
            break
        count += 1
    return count


def _number(text: str) -> int:
    if not text.isdecimal():
        raise InvalidArgument("The page token was not made for this list.", reason="BAD_PAGE_TOKEN")
    return int(text)
