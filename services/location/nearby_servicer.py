"""The methods of LocationService about friends nearby: takes each request apart, has it done, and puts the answer together."""

from google.protobuf.timestamp_pb2 import Timestamp

from hither.location.v1 import location_service_pb2 as pb
from hither.location.v1.location_pb2 import LocationGrant, LocationViewEntry
from services.location.nearby_service import Nearby
from services.location.policy import Hints
from services.location.precision import Fix, message_of
from services.paging import decode_token, encode_token
from services.ports.privacy_store import GrantRow, Precision
from services.ports.view_log import ViewPlace, ViewRow


class NearbyMethods:
    """See hither/location/v1/location_service.proto for what each method does and refuses."""

    _nearby: Nearby

    async def UpdateLocation(self, request: pb.UpdateLocationRequest, context: object) -> pb.UpdateLocationResponse:
        """See the contract."""
        time_ms = request.timestamp.ToMilliseconds() if request.HasField("timestamp") else self._nearby.now_ms()
        hints = Hints(
            request.speed_mps if request.HasField("speed_mps") else None,
            request.battery_percent if request.HasField("battery_percent") else None,
            request.metered,
        )
        fix = Fix(request.lat, request.lng, time_ms, request.accuracy_m)
        wanted = await self._nearby.updating.update(request.user_id, fix, hints, request.radius)
        if wanted is None:
            settings = self._nearby.settings
            return pb.UpdateLocationResponse(next_update_s=settings.still_s, min_move_m=settings.min_move_m)
        return pb.UpdateLocationResponse(next_update_s=wanted.next_update_s, min_move_m=wanted.min_move_m, shared=True)

    async def ListNearbyFriends(
        self, request: pb.ListNearbyFriendsRequest, context: object
    ) -> pb.ListNearbyFriendsResponse:
        """See the contract."""
        size = request.page_size or self._nearby.settings.page_size
        friends, token = await self._nearby.listing.page(request.user_id, request.radius, size, request.page_token)
        return pb.ListNearbyFriendsResponse(friends=friends, next_page_token=token)

    async def UpdateLocationSharing(
        self, request: pb.UpdateLocationSharingRequest, context: object
    ) -> pb.UpdateLocationSharingResponse:
        """See the contract."""
        default = Precision(request.default_precision) if request.default_precision else None
        row = await self._nearby.sharing.share(request.user_id, request.enabled, default)
        return pb.UpdateLocationSharingResponse(
            enabled=row.shares_location, default_precision=message_of(row.default_precision)
        )

    async def GetLocationSharing(
        self, request: pb.GetLocationSharingRequest, context: object
    ) -> pb.GetLocationSharingResponse:
        """See the contract."""
        row = await self._nearby.sharing.setting(request.user_id)
        return pb.GetLocationSharingResponse(
            enabled=row.shares_location, default_precision=message_of(row.default_precision)
        )

    async def PutLocationGrant(
        self, request: pb.PutLocationGrantRequest, context: object
    ) -> pb.PutLocationGrantResponse:
        """See the contract."""
        grant = await self._nearby.sharing.grant(
            request.user_id, request.friend_id, Precision(request.precision), request.duration_s
        )
        return pb.PutLocationGrantResponse(grant=_grant(grant))

    async def RemoveLocationGrant(
        self, request: pb.RemoveLocationGrantRequest, context: object
    ) -> pb.RemoveLocationGrantResponse:
        """See the contract."""
        await self._nearby.sharing.revoke(request.user_id, request.friend_id)
        return pb.RemoveLocationGrantResponse()

    async def ListLocationGrants(
        self, request: pb.ListLocationGrantsRequest, context: object
    ) -> pb.ListLocationGrantsResponse:
        """See the contract."""
        size = request.page_size or self._nearby.settings.log_page_size
        grants, token = await self._nearby.sharing.grants(request.user_id, size, request.page_token)
        return pb.ListLocationGrantsResponse(grants=map(_grant, grants), next_page_token=token)

    async def ListLocationViews(
        self, request: pb.ListLocationViewsRequest, context: object
    ) -> pb.ListLocationViewsResponse:
        """See the contract."""
        size = request.page_size or self._nearby.settings.log_page_size
        list_name = f"location-views/{request.user_id}"
        after = decode_token(list_name, request.page_token, 2)
        place = ViewPlace(int(after[0]), after[1]) if after else None
        rows = await self._nearby.view_log.read(request.user_id, place, size + 1)
        page = rows[:size]
        token = ""
        if len(rows) > size:
            token = encode_token(list_name, str(page[-1].slot_ms), page[-1].viewer_id)
        return pb.ListLocationViewsResponse(views=map(_view, page), next_page_token=token)

    async def ReportViewers(self, request: pb.ReportViewersRequest, context: object) -> pb.ReportViewersResponse:
        """See the contract."""
        self._nearby.report(request.reports)
        return pb.ReportViewersResponse()


def _grant(row: GrantRow) -> LocationGrant:
    grant = LocationGrant(friend_id=row.viewer_id, precision=message_of(row.precision))
    if row.expires_ms:
        grant.expires_at.FromMilliseconds(row.expires_ms)
    return grant


def _view(row: ViewRow) -> LocationViewEntry:
    return LocationViewEntry(
        viewer_id=row.viewer_id,
        precision=message_of(row.precision),
        start_time=_timestamp(row.slot_ms),
        last_time=_timestamp(row.last_ms),
        count=row.count,
    )


def _timestamp(time_ms: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(time_ms)
    return timestamp
