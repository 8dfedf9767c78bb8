"""PresenceService: takes each request apart, has it done, and puts the answer together."""

from hither.presence.v1 import presence_service_pb2 as pb
from hither.presence.v1.presence_pb2 import PresenceEvent
from hither.presence.v1.presence_service_pb2_grpc import PresenceServiceServicer
from services.presence.folding import Status
from services.presence.interest import Interests
from services.presence.listing import Listing
from services.presence.privacy import Privacy
from services.presence.publishing import Publishing
from services.presence.settings import PresenceSettings
from services.presence.visibility import audience_of, privacy_message


class PresenceServicer(PresenceServiceServicer):
    """See hither/presence/v1/presence_service.proto for what each method does and refuses."""

    def __init__(
        self,
        publishing: Publishing,
        interests: Interests,
        privacy: Privacy,
        listing: Listing,
        settings: PresenceSettings,
    ) -> None:
        self._publishing = publishing
        self._interests = interests
        self._privacy = privacy
        self._listing = listing
        self._settings = settings

    async def SetPresence(self, request: pb.SetPresenceRequest, context: object) -> pb.SetPresenceResponse:
        """See the contract."""
        text = request.text if request.HasField("text") else None
        await self._publishing.set_status(request.user_id, request.device_id, Status(request.status), text)
        return pb.SetPresenceResponse()

    async def WatchPresence(self, request: pb.WatchPresenceRequest, context: object) -> pb.WatchPresenceResponse:
        """See the contract."""
        events = await self._interests.watch(request.user_id, request.device_id, request.user_ids)
        return pb.WatchPresenceResponse(presences=map(_friend, events))

    async def GetPrivacy(self, request: pb.GetPrivacyRequest, context: object) -> pb.GetPrivacyResponse:
        """See the contract."""
        return pb.GetPrivacyResponse(privacy=privacy_message(await self._privacy.get(request.user_id)))

    async def UpdatePrivacy(self, request: pb.UpdatePrivacyRequest, context: object) -> pb.UpdatePrivacyResponse:
        """See the contract."""
        changed = await self._privacy.update(
            request.user_id, audience_of(request.presence), audience_of(request.last_seen)
        )
        return pb.UpdatePrivacyResponse(privacy=privacy_message(changed))

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
    return pb.FriendPresence(user_id=event.user_id, status=event.status, last_seen=last_seen, text=event.text)
