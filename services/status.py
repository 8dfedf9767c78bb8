"""What `hither status` shows: the mesh as a running process sees it."""

import grpc

from discovery.rpc.status import from_grpc
from discovery.rpc.tls import Credentials, open_channel
from hither.mesh.v1 import status_service_pb2 as pb
from hither.mesh.v1.instance_pb2 import InstanceState
from hither.mesh.v1.status_service_pb2_grpc import StatusServiceStub
from services.data_directory import Running

_TIMEOUT_S = 5.0


async def fetch_status(address: str, token: str, credentials: Credentials | None = None) -> pb.GetStatusResponse:
    """Asks the process at host:port. With credentials they must be an operator's. Raises HitherError if it refuses or does not
    answer within 5 s.
    """
    async with open_channel(credentials, address) as channel:
        try:
            return await StatusServiceStub(channel).GetStatus(
                pb.GetStatusRequest(), timeout=_TIMEOUT_S, metadata=(("authorization", f"Bearer {token}"),)
            )
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error) from error


def render_status(running: Running, answer: pb.GetStatusResponse) -> str:
    """The answer as a table for people."""
    lines = [
        f"cluster   {answer.cluster}   revision {answer.revision}   partitions {answer.partitions}",
        f"address   {running.url}   gRPC {running.grpc_address}   pid {running.pid}",
        "",
        f"{'SERVICE':<40} {'INSTANCE':<28} {'STATE':<9} {'LOAD':>5}  PARTITIONS",
    ]
    for status in answer.instances:
        instance = status.instance
        state = InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
        owned = f"{len(status.partitions)} of {answer.partitions}"
        lines.append(f"{instance.service:<40} {instance.instance_id:<28} {state:<9} {instance.load:>5.0%}  {owned}")
    return "\n".join(lines)
