"""The Registry over etcd.

    /hither/v1/<cluster>/<service>/<instance_id>   a serialised hither.mesh.v1.Instance, on its process's lease
    /hither/v1/<cluster>/numbers/<number>          an instance number that is held, on the lease that holds it

A service's full name has a dot, so none is called "numbers". A user of an etcd with authentication may read and write what
begins with /hither/v1/<cluster>/, and needs no more. While etcd is away, calls that ask or change something raise
Unavailable (ENGINE_DOWN), and a watch merely has no news: it never raises, but tries again by itself, with jittered pauses of
at most 3 s, and goes on from what it knew. Revisions are etcd's, so they are alike in all processes; in a process that saw
etcd lose data (wiped, or restored from a backup) they go on upwards from where they were.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self

from etcd.api.etcdserverpb import rpc_pb2

from discovery.errors import ResourceExhausted, Unavailable
from discovery.registry.etcd.client import EtcdClient, LeaseNotFound
from discovery.registry.etcd.contents import Contents, encode
from discovery.registry.etcd.endpoints import EtcdTls
from discovery.registry.etcd.watch import PrefixWatch, end_of
from discovery.registry.metrics import RegistryMetrics, process_registry_metrics
from discovery.registry.port import INSTANCE_NUMBERS, Instance, Snapshot

_CLAIMS: Final = 50
"""How often a claim is tried anew when another process was faster."""


class EtcdRegistry:
    """See the module and discovery.registry.port.Registry. Of one event loop; made by `open`."""

    def __init__(self, client: EtcdClient, cluster: str, metrics: RegistryMetrics) -> None:
        if not cluster or "/" in cluster:
            raise ValueError(f"a cluster's name is not empty and has no slash, unlike {cluster!r}")
        self._client = client
        self._prefix = f"/hither/v1/{cluster}/"
        self._numbers = f"{self._prefix}numbers/"
        self._contents = Contents()
        self._changed = asyncio.Event()
        self._closed = False
        self._watch = PrefixWatch(client, self._prefix.encode(), self._contents, self._wake, metrics)
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        endpoints: Sequence[str],
        cluster: str,
        *,
        tls: EtcdTls | None = None,
        user: str = "",
        password: str = "",
        metrics: RegistryMetrics | None = None,
    ) -> Self:
        """Begins to watch the cluster of that name. `endpoints` are host:port or URLs of members of one etcd. Asks etcd for
        nothing yet, so it does not matter whether it is there. Raises ValueError.
        """
        client = EtcdClient(endpoints, tls=tls, user=user, password=password)
        registry = cls(client, cluster, metrics or process_registry_metrics())
        registry._watching = asyncio.create_task(registry._watch.run(), name="etcd watch")
        registry._watching.add_done_callback(lambda _: registry._wake())
        return registry

    async def grant(self, ttl_s: float) -> int:
        """See Registry. Whole seconds, rounded up; etcd gives at least 2 s with its usual settings."""
        return await self._client.grant(math.ceil(ttl_s))

    async def keep_alive(self, lease: int) -> bool:
        """See Registry."""
        try:
            await self._client.keep_alive(lease)
        except LeaseNotFound:
            return False
        return True

    async def revoke(self, lease: int) -> None:
        """See Registry."""
        try:
            await self._client.revoke(lease)
        except LeaseNotFound:
            return

    async def put(self, instance: Instance, lease: int) -> bool:
        """See Registry."""
        if lease == 0:
            return False  # To etcd this would mean: for ever.
        key = f"{self._prefix}{instance.service}/{instance.instance_id}".encode()
        try:
            await self._client.put(key, encode(instance), lease)
        except LeaseNotFound:
            return False
        return True

    async def claim_number(self, lease: int, wanted: int | None = None) -> int | None:
        """See Registry. Of processes that claim at the same moment some may get one that is not the very lowest."""
        if lease == 0:
            return None
        for attempt in range(_CLAIMS):
            held = await self._held_numbers()
            mine = next((number for number, holder in held.items() if holder == lease), None)
            if mine is not None:
                return mine
            number = _choose(held, wanted, attempt)
            try:
                if await self._hold(number, lease):
                    return number
            except LeaseNotFound:
                return None
        raise Unavailable("too many processes claim instance numbers at this moment")

    async def snapshot(self) -> Snapshot:
        """See Registry."""
        await self._watch.read()
        return self._contents.snapshot()

    async def watch(self) -> AsyncIterator[Snapshot]:
        """See Registry. Begins with what is known already if etcd is away, and waits for etcd if nothing is."""
        try:
            await self._watch.read()
        except Unavailable:
            if self._closed:
                return
        seen = 0
        while not self._closed:
            self._raise_if_dead()
            if self._contents.revision > seen:
                snapshot = self._contents.snapshot()
                seen = snapshot.revision
                yield snapshot
            else:
                await self._changed.wait()

    async def close(self) -> None:
        """See Registry. Raises what ended the watching, if something did."""
        self._closed = True
        self._wake()
        watching, self._watching = self._watching, None
        try:
            if watching is not None:
                watching.cancel()
                await asyncio.wait({watching})
                if not watching.cancelled():
                    watching.result()
        finally:
            await self._client.close()

    async def _held_numbers(self) -> dict[int, int]:
        start = self._numbers.encode()
        answer = await self._client.range(start, end_of(start))
        names = ((pair.key.removeprefix(start), pair.lease) for pair in answer.kvs)
        return {int(name): lease for name, lease in names if name.isdigit()}

    async def _hold(self, number: int, lease: int) -> bool:
        key = f"{self._numbers}{number}".encode()
        free = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.CREATE, result=rpc_pb2.Compare.EQUAL, create_revision=0)
        put = rpc_pb2.PutRequest(key=key, lease=lease)
        request = rpc_pb2.TxnRequest(compare=[free], success=[rpc_pb2.RequestOp(request_put=put)])
        return (await self._client.txn(request)).succeeded

    def _raise_if_dead(self) -> None:
        if self._watching is not None and self._watching.done() and not self._watching.cancelled():
            self._watching.result()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _choose(held: dict[int, int], wanted: int | None, attempt: int) -> int:
    """The wanted number if it is free, else the lowest free one; among ever more of them after another was faster, so that
    processes that start together do not race for the same one again and again.
    """
    if wanted is not None and wanted not in held:
        return wanted
    free = [number for number in range(INSTANCE_NUMBERS) if number not in held]
    if not free:
        raise ResourceExhausted("all instance numbers are held", reason="QUOTA_EXCEEDED")
    return random.choice(free[: 2**attempt])  # noqa: S311 (spreads load, guards nothing)
