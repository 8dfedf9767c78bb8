"""LocationService: part of the contract, not built yet. Every method says so; none pretends."""

from typing import NoReturn

from discovery.errors import Unimplemented
from hither.location.v1 import location_service_pb2 as pb
from hither.location.v1.location_service_pb2_grpc import LocationServiceServicer


class LocationServicer(LocationServiceServicer):
    """Every method raises Unimplemented (NOT_BUILT)."""

    async def UpdateLocation(self, request: pb.UpdateLocationRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def ListNearbyFriends(self, request: pb.ListNearbyFriendsRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def UpdateLocationSharing(self, request: pb.UpdateLocationSharingRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def UpdateLiveLocation(self, request: pb.UpdateLiveLocationRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def WatchLiveLocation(self, request: pb.WatchLiveLocationRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def UnwatchLiveLocation(self, request: pb.UnwatchLiveLocationRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def EndLiveLocation(self, request: pb.EndLiveLocationRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()


def _not_built() -> Unimplemented:
    return Unimplemented("Whereabouts are not built yet.", reason="NOT_BUILT")
