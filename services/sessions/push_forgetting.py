"""What push is told about devices: that one was removed."""

from discovery.errors import DeadlineExceeded, Unavailable
from discovery.mesh import Mesh
from hither.push.v1.push_service_pb2 import ForgetDeviceRequest
from hither.push.v1.push_service_pb2_grpc import PushServiceStub


class PushForgetting:
    """Calls push, each time at most `timeout_s` long."""

    def __init__(self, mesh: Mesh, timeout_s: float) -> None:
        self._push = mesh.stub(PushServiceStub)
        self._timeout_s = timeout_s

    async def forget(self, user_id: str, device_id: str) -> None:
        """Has push forget the device. May be repeated. Raises Unavailable."""
        request = ForgetDeviceRequest(user_id=user_id, device_id=device_id)
        try:
            await self._push.ForgetDevice(request, timeout=self._timeout_s)
        except DeadlineExceeded:
            raise Unavailable("Push does not answer in time.", reason="OUTCOME_UNKNOWN") from None
