"""The connection registry: which connection each device of a user is held by, in the Cache.

The map at `connections:<user>` has a field for each device; it runs out by itself unless it is written again. A value is
the connection as a LookupConnectionsResponse of one: serialised messages put end to end are the message with all
their items, so a look-up of any size, made for each message that is delivered, is one cache call and one parse.
Knows nothing of what a connection means.
"""

from collections.abc import Iterable, Mapping, Sequence

from hither.sessions.v1.sessions_pb2 import Connection
from hither.sessions.v1.sessions_service_pb2 import LookupConnectionsResponse
from services.ports.cache import Cache


class ConnectionRegistry:
    """Connections by user and device. Errors are the Cache's: Unavailable (ENGINE_DOWN)."""

    def __init__(self, cache: Cache, ttl_s: float) -> None:
        self._cache = cache
        self._ttl_s = ttl_s

    async def live(self, user_ids: Sequence[str]) -> LookupConnectionsResponse:
        """All live connections of the users, in no order."""
        maps = await self._cache.fields([_key(user_id) for user_id in user_ids])
        return LookupConnectionsResponse.FromString(b"".join([value for found in maps for value in found.values()]))

    async def of_user(self, user_id: str) -> Mapping[str, Connection]:
        """The live connections of one user, by device."""
        return {connection.device_id: connection for connection in (await self.live([user_id])).connections}

    async def hold(self, connections: Iterable[Connection]) -> None:
        """Makes each connection its device's, and gives it a full time to live."""
        for connection in connections:
            await self._cache.put_field(_key(connection.user_id), connection.device_id, _value(connection), self._ttl_s)

    async def release(self, connection: Connection) -> bool:
        """Forgets the connection if it is still its device's; tells whether it was."""
        return await self._cache.delete_field(
            _key(connection.user_id), connection.device_id, expected=_value(connection)
        )


def _key(user_id: str) -> str:
    return "connections:" + user_id


def _value(connection: Connection) -> bytes:
    return LookupConnectionsResponse(connections=[connection]).SerializeToString(deterministic=True)
