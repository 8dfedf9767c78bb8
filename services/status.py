"""What `hither status` shows: the mesh as the registry has it, or as a running process sees it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc

from discovery.registry.port import Registry
from discovery.rpc.status import from_grpc
from discovery.rpc.status_servicer import StatusServicer
from discovery.rpc.tls import Credentials, open_channel
from discovery.view import View, next_view
from hither.mesh.v1 import status_service_pb2 as pb
from hither.mesh.v1.instance_pb2 import InstanceState
from hither.mesh.v1.status_service_pb2_grpc import StatusServiceStub

_TIMEOUT_S: Final = 5.0
_REFRESH_S: Final = 1.0


class _Seen:
    """The view that follows from a registry's snapshots, with the ring that every process computes from them."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.view = View()


async def watch_registry(registry: Registry, cluster: str, partitions: int) -> AsyncIterator[pb.GetStatusResponse]:
    """The mesh now, and again after each change. Raises Unavailable if the registry is away."""
    seen = _Seen(partitions)
    servicer = StatusServicer(seen, cluster)
    async with asyncio.timeout(_TIMEOUT_S):
        seen.view = next_view(seen.view, await registry.snapshot(), partitions)
    yield await servicer.GetStatus(pb.GetStatusRequest(), None)
    async for snapshot in registry.watch():
        if snapshot.revision > seen.view.revision:
            seen.view = next_view(seen.view, snapshot, partitions)
            yield await servicer.GetStatus(pb.GetStatusRequest(), None)


async def watch_process(
    address: str, token: str, credentials: Credentials | None
) -> AsyncIterator[pb.GetStatusResponse]:
    """The mesh as the process at host:port sees it, once a second. With credentials they must be an operator's. Raises
    HitherError if it refuses or does not answer within 5 s.
    """
    async with open_channel(credentials, address) as channel:
        stub = StatusServiceStub(channel)
        while True:
            try:
                yield await stub.GetStatus(
                    pb.GetStatusRequest(), timeout=_TIMEOUT_S, metadata=(("authorization", f"Bearer {token}"),)
                )
            except grpc.aio.AioRpcError as error:
                raise from_grpc(error) from error
            await asyncio.sleep(_REFRESH_S)


def render_status(where: str, answer: pb.GetStatusResponse) -> str:
    """The answer as a table for people; `where` says whom it is from."""
    lines = [
        f"cluster   {answer.cluster}   revision {answer.revision}   partitions {answer.partitions}",
        where,
        "",
        f"{'SERVICE':<40} {'INSTANCE':<28} {'ADDRESS':<21} {'ZONE':<8} {'STATE':<9} {'LOAD':>5}  PARTITIONS",
    ]
    for status in answer.instances:
        instance = status.instance
        state = InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
        owned = f"{len(status.partitions)} of {answer.partitions}"
        lines.append(
            f"{instance.service:<40} {instance.instance_id:<28} {instance.address or '-':<21} {instance.zone or '-':<8} "
            f"{state:<9} {instance.load:>5.0%}  {owned}"
        )
    return "\n".join(lines)
