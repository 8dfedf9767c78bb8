"""Redis servers of the bus in a registry, put there and taken from it by a test instead of their keepers."""

from discovery.registry.port import Instance, Registry
from services.storage.redis.shards import SERVICE
from tests.support.servers.redis import RedisServer

_LEASE_S = 600.0


async def announce(registry: Registry, *servers: RedisServer) -> list[int]:
    """Puts the servers there, each under a lease of its own; the test ends one by revoking it."""
    leases = [await registry.grant(_LEASE_S) for _ in servers]
    for server, lease in zip(servers, leases, strict=True):
        assert await registry.put(Instance(SERVICE, server.address, server.address), lease)
    return leases
