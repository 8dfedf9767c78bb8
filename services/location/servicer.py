"""LocationService: takes each request apart and has it done; what is about friends nearby in a part of its own."""

from discovery.rpc.call import current_call
from hither.location.v1 import location_service_pb2 as pb
from hither.location.v1.location_pb2 import Fix
from hither.location.v1.location_service_pb2_grpc import LocationServiceServicer
from services.location.live_service import Live
from services.location.nearby_service import Nearby
from services.location.nearby_servicer import NearbyMethods


class LocationServicer(NearbyMethods, LocationServiceServicer):
    """See hither/location/v1/location_service.proto for what each method does and refuses."""

    def __init__(self, nearby: Nearby, live: Live) -> None:
        self._nearby = nearby
        self._live = live

    async def UpdateLiveLocation(
        self, request: pb.UpdateLiveLocationRequest, context: object
    ) -> pb.UpdateLiveLocationResponse:
        """See the contract."""
        fix = Fix(lat=request.lat, lng=request.lng, ciphertext=request.ciphertext)
        await self._live.locations.update(request.session_id, current_call().caller.user_id, fix)
        return pb.UpdateLiveLocationResponse()

    async def WatchLiveLocation(
        self, request: pb.WatchLiveLocationRequest, context: object
    ) -> pb.WatchLiveLocationResponse:
        """See the contract."""
        caller = current_call().caller
        views = await self._live.watching.watch(request.conversation_id, caller.user_id, caller.device_id)
        return pb.WatchLiveLocationResponse(sessions=views)

    async def UnwatchLiveLocation(
        self, request: pb.UnwatchLiveLocationRequest, context: object
    ) -> pb.UnwatchLiveLocationResponse:
        """See the contract."""
        caller = current_call().caller
        await self._live.watching.unwatch(request.conversation_id, caller.user_id, caller.device_id)
        return pb.UnwatchLiveLocationResponse()

    async def EndLiveLocation(self, request: pb.EndLiveLocationRequest, context: object) -> pb.EndLiveLocationResponse:
        """See the contract."""
        await self._live.locations.end(request.session_id, request.reason)
        return pb.EndLiveLocationResponse()
