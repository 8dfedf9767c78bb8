"""PresenceService: takes each request apart, has it done, and puts the answer together."""

from hither.presence.v1 import presence_service_pb2 as pb
from hither.presence.v1.presence_pb2 import PresenceEvent
from hither.presence.v1.presence_service_pb2_grpc import PresenceServiceServicer
from services.presence.folding import Status
from services.presence.listing import Listing
from services.presence.publishing import Publishing
from services.presence.settings import PresenceSettings


class PresenceServicer(PresenceServiceServicer):
    """See hither/presence/v1/presence_service.proto for what each method does and refuses."""

    def __init__(self, publishing: Publishing, listing: Listing, settings: PresenceSettings) -> None:
        self._publishing = publishing
        self._listing = listing
        self._settings = settings

    async def SetPresence(self, request: pb.SetPresenceRequest, context: object) -> pb.SetPresenceResponse:
        """See the contract."""
        await self._publishing.set_status(request.user_id, request.device_id, Status(request.status))
        return pb.SetPresenceResponse()

    async def ListFriendPresence(
        self, request: pb.ListFriendPresenceRequest, context: object
    ) -> pb.ListFriendPresenceResponse:
        """See the contract."""
        size = request.page_size or self._settings.page_size
        events, next_page_token = await self._listing.page(request.user_id, size, request.page_token)
        return pb.ListFriendPresenceResponse(friends=map(_friend, events), next_page_token=next_page_token)

    async def ReportDevices(self, request: pb.ReportDevicesRequest, context: object) -> pb.ReportDevicesResponse:
        """See the contract."""
        await self._publishing.report(request.reports)
        return pb.ReportDevicesResponse()


def _friend(event: PresenceEvent) -> pb.FriendPresence:
    last_seen = event.last_seen if event.HasField("last_seen") else None
    return pb.FriendPresence(user_id=event.user_id, status=event.status, last_seen=last_seen)
