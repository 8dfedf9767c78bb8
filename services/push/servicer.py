"""PushService: part of the contract, not built yet. Every method says so; none pretends."""

from typing import NoReturn

from discovery.errors import Unimplemented
from hither.push.v1 import push_service_pb2 as pb
from hither.push.v1.push_service_pb2_grpc import PushServiceServicer


class PushServicer(PushServiceServicer):
    """Every method raises Unimplemented (NOT_BUILT)."""

    async def RegisterPushToken(self, request: pb.RegisterPushTokenRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def ListPushTokens(self, request: pb.ListPushTokensRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()

    async def RemovePushToken(self, request: pb.RemovePushTokenRequest, context: object) -> NoReturn:
        """Not built yet."""
        raise _not_built()


def _not_built() -> Unimplemented:
    return Unimplemented("Push is not built yet.", reason="NOT_BUILT")
