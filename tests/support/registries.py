"""A process that serves its registry to others, for tests of who calls it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Registry
from discovery.rpc.server import RpcServer
from tests.support.cluster import PARTITIONS, Keys, new_dispatcher


@asynccontextmanager
async def serving(registry: Registry, keys: Keys, address: str = "127.0.0.1:0") -> AsyncIterator[RpcServer]:
    """Serves the registry on loopback. The process itself is not in it, so that it is as empty as the test made it."""
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="holder")
    async with RpcServer(mesh, keys.verifier(), address, registry=registry) as server:
        yield server
