"""What is asked and told about live-location sessions beyond this service: members, messages, and the viewers of `location`."""

from contextlib import suppress

from discovery.errors import FailedPrecondition, HitherError, InvalidArgument, NotFound, PermissionDenied
from discovery.mesh import Mesh
from hither.directory.v1.directory_service_pb2 import ResolveConversationRequest
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from hither.location.v1.location_pb2 import EndReason
from hither.location.v1.location_service_pb2 import EndLiveLocationRequest
from hither.location.v1.location_service_pb2_grpc import LocationServiceStub
from hither.messaging.v1.messaging_pb2 import Content
from hither.messaging.v1.messaging_service_pb2 import PostMessageRequest
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceStub
from services.ports.live_session_store import Ending, LiveSessionRow
from services.sessions.live_lease import message_of_end, message_of_start

_FOR_GOOD = (PermissionDenied, NotFound, InvalidArgument, FailedPrecondition)


class Refused(Exception):
    """The conversation takes no message from the sharer any more; `error` says why."""

    def __init__(self, error: HitherError) -> None:
        super().__init__(error.reason)
        self.error = error


class LiveTelling:
    """Calls of other services, each at most `timeout_s` long. Where nothing else is said they raise what these raise."""

    def __init__(self, mesh: Mesh, timeout_s: float) -> None:
        self._directory = mesh.stub(DirectoryServiceStub)
        self._messaging = mesh.stub(MessagingServiceStub)
        self._location = mesh.stub(LocationServiceStub)
        self._timeout_s = timeout_s

    async def check_member(self, conversation_id: str, user_id: str) -> None:
        """Passes for a member who may send there. Raises PermissionDenied (NOT_A_MEMBER, BLOCKED)."""
        request = ResolveConversationRequest(conversation_id=conversation_id, sender_id=user_id)
        await self._directory.ResolveConversation(request, timeout=self._timeout_s)

    async def announce(self, row: LiveSessionRow) -> None:
        """Says in the conversation that the session has started. May be repeated. Raises Refused."""
        await self._post(row, *message_of_start(row))

    async def tell_end(self, row: LiveSessionRow) -> None:
        """Tells the viewers that the session has ended, and the conversation if it knows of the start and the sharer may
        still speak there. May be repeated.
        """
        failed: HitherError | None = None
        request = EndLiveLocationRequest(session_id=row.session_id, reason=EndReason.ValueType(row.ending))
        try:
            await self._location.EndLiveLocation(request, timeout=self._timeout_s)
        except HitherError as error:
            failed = error
        if row.announced and row.ending is not Ending.REMOVED:
            with suppress(
                Refused
            ):  # removed or blocked since: the start's message says until when it would have gone on
                await self._post(row, *message_of_end(row))
        if failed is not None:
            raise failed

    async def _post(self, row: LiveSessionRow, client_id: str, content: Content) -> None:
        request = PostMessageRequest(
            conversation_id=row.conversation_id, sender_id=row.user_id, client_id=client_id, content=content
        )
        try:
            await self._messaging.PostMessage(request, timeout=self._timeout_s)
        except _FOR_GOOD as error:
            raise Refused(error) from error
