"""The messaging service's RPCs: who calls and until when, handed to the modules that decide."""

from discovery.rpc.call import current_call
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceServicer
from services.messaging.acknowledgement import Acknowledgements
from services.messaging.history import History
from services.messaging.marks import Marks
from services.messaging.sending import Sending
from services.messaging.unread import Unread

_ANSWER_S = 0.05
"""What a send keeps of its time to say that its outcome is unknown, before the call is ended from outside."""


class MessagingServicer(MessagingServiceServicer):
    """See hither/messaging/v1/messaging_service.proto."""

    def __init__(
        self,
        sending: Sending,
        history: History,
        marks: Marks,
        acknowledgements: Acknowledgements,
        unread: Unread,
    ) -> None:
        self._sending = sending
        self._history = history
        self._marks = marks
        self._acknowledgements = acknowledgements
        self._unread = unread

    async def SendMessage(self, request: pb.SendMessageRequest, context: object) -> pb.SendMessageResponse:
        """See the contract."""
        call = current_call()
        return await self._sending.send(request, call.caller.user_id, call.remaining_s() - _ANSWER_S)

    async def PostMessage(self, request: pb.PostMessageRequest, context: object) -> pb.PostMessageResponse:
        """See the contract."""
        message = pb.SendMessageRequest(
            conversation_id=request.conversation_id, client_id=request.client_id, content=request.content
        )
        sent = await self._sending.send(message, request.sender_id, current_call().remaining_s() - _ANSWER_S)
        return pb.PostMessageResponse(message_id=sent.message_id, seq=sent.seq)

    async def ListMessages(self, request: pb.ListMessagesRequest, context: object) -> pb.ListMessagesResponse:
        """See the contract."""
        return await self._history.list_messages(request, current_call().caller.user_id)

    async def SyncInbox(self, request: pb.SyncInboxRequest, context: object) -> pb.SyncInboxResponse:
        """See the contract."""
        return await self._history.sync_inbox(request)

    async def ListInboxConversations(
        self, request: pb.ListInboxConversationsRequest, context: object
    ) -> pb.ListInboxConversationsResponse:
        """See the contract."""
        return await self._history.list_conversations(request)

    async def AcknowledgeInbox(
        self, request: pb.AcknowledgeInboxRequest, context: object
    ) -> pb.AcknowledgeInboxResponse:
        """See the contract."""
        self._acknowledgements.offer(request.user_id, request.device_id, request.pos)
        return pb.AcknowledgeInboxResponse()

    async def MarkRead(self, request: pb.MarkReadRequest, context: object) -> pb.MarkReadResponse:
        """See the contract."""
        await self._marks.mark_read(request.conversation_id, current_call().caller.user_id, request.seq)
        return pb.MarkReadResponse()

    async def SendTyping(self, request: pb.SendTypingRequest, context: object) -> pb.SendTypingResponse:
        """See the contract."""
        await self._marks.typing(request.conversation_id, current_call().caller.user_id)
        return pb.SendTypingResponse()

    async def ListMarks(self, request: pb.ListMarksRequest, context: object) -> pb.ListMarksResponse:
        """See the contract."""
        return await self._history.list_marks(request, current_call().caller.user_id)

    async def GetUnread(self, request: pb.GetUnreadRequest, context: object) -> pb.GetUnreadResponse:
        """See the contract."""
        count, seen_seqs = await self._unread.of_user(request.user_id, request.conversation_ids)
        return pb.GetUnreadResponse(unread_count=count, seen_seqs=seen_seqs)
