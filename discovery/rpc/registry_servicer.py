"""RegistryService: the registry that this process holds, for the other processes of its machine.

Each life of a servicer is an epoch. A lease of another epoch has ended, whatever its number says: a registry in memory
counts from the beginning when its process starts anew.
"""

import asyncio
import random
from typing import Final

import grpc

from discovery.errors import ResourceExhausted
from discovery.registry.messages import from_message, to_message
from discovery.registry.port import Registry, Snapshot
from hither.mesh.v1 import registry_pb2
from hither.mesh.v1 import registry_service_pb2 as pb
from hither.mesh.v1.registry_service_pb2_grpc import RegistryServiceServicer as Base

REGISTRY_SERVICE: Final = "hither.mesh.v1.RegistryService"
WATCH: Final = f"/{REGISTRY_SERVICE}/WatchSnapshots"
MAX_WATCHES: Final = 1024
"""Watches that are served at once."""

_RETRY_AFTER_S: Final = 1.0

Context = grpc.aio.ServicerContext[bytes, bytes]


class RegistryServicer(Base):
    """Answers from the registry."""

    def __init__(self, registry: Registry, max_watches: int = MAX_WATCHES) -> None:
        self._registry = registry
        self._epoch = random.getrandbits(63) or 1
        self._watches = 0
        self._max_watches = max_watches
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Ends the watches, and each that comes."""
        self._draining.set()

    async def Grant(self, request: pb.GrantRequest, context: object) -> pb.GrantResponse:
        """See the contract."""
        number = await self._registry.grant(request.ttl_ms / 1000)
        return pb.GrantResponse(lease=registry_pb2.Lease(epoch=self._epoch, number=number))

    async def KeepAlive(self, request: pb.KeepAliveRequest, context: object) -> pb.KeepAliveResponse:
        """See the contract."""
        alive = self._ours(request.lease) and await self._registry.keep_alive(request.lease.number)
        return pb.KeepAliveResponse(alive=alive)

    async def Revoke(self, request: pb.RevokeRequest, context: object) -> pb.RevokeResponse:
        """See the contract."""
        if self._ours(request.lease):
            await self._registry.revoke(request.lease.number)
        return pb.RevokeResponse()

    async def PutInstance(self, request: pb.PutInstanceRequest, context: object) -> pb.PutInstanceResponse:
        """See the contract."""
        instance = from_message(request.instance)
        alive = self._ours(request.lease) and await self._registry.put(instance, request.lease.number)
        return pb.PutInstanceResponse(alive=alive)

    async def ClaimNumber(self, request: pb.ClaimNumberRequest, context: object) -> pb.ClaimNumberResponse:
        """See the contract."""
        if not self._ours(request.lease):
            return pb.ClaimNumberResponse()
        wanted = request.wanted if request.HasField("wanted") else None
        return pb.ClaimNumberResponse(number=await self._registry.claim_number(request.lease.number, wanted))

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: object) -> pb.GetSnapshotResponse:
        """See the contract."""
        return pb.GetSnapshotResponse(snapshot=self._message(await self._registry.snapshot()))

    async def WatchSnapshots(self, request: object, context: Context) -> None:  # type: ignore[override] # writes, yields nothing
        """See the contract. Who calls has been checked by the server; what is written is serialised."""
        if self._watches >= self._max_watches:
            raise ResourceExhausted("as many watch as may", retry_after_s=_RETRY_AFTER_S)
        self._watches += 1
        writing = asyncio.create_task(self._write_all(context), name="registry watch")
        draining = asyncio.create_task(self._draining.wait(), name="registry watch's end")
        try:
            await asyncio.wait((writing, draining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._watches -= 1
            finished = writing.done()
            writing.cancel()
            draining.cancel()
            await asyncio.wait((writing, draining))
        if finished:
            writing.result()

    async def _write_all(self, context: Context) -> None:
        async for snapshot in self._registry.watch():
            await context.write(pb.WatchSnapshotsResponse(snapshot=self._message(snapshot)).SerializeToString())

    def _ours(self, lease: registry_pb2.Lease) -> bool:
        return lease.epoch == self._epoch

    def _message(self, snapshot: Snapshot) -> registry_pb2.RegistrySnapshot:
        return registry_pb2.RegistrySnapshot(
            epoch=self._epoch, revision=snapshot.revision, instances=map(to_message, snapshot.instances)
        )
