"""Whose news a connection wants: said by the client for those on its screen, and kept for the next owner of the user."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog

from discovery.errors import HitherError, Unavailable
from hither.presence.v1.presence_pb2 import PresenceEvent, PresenceWatch
from services.presence.folding import Folding, Link
from services.presence.friends import Friends
from services.presence.records import Records
from services.presence.settings import PresenceSettings
from services.presence.telling import Telling
from services.presence.visibility import view
from services.presence.watching import Watching

_log = structlog.get_logger("hither.presence")


class Remembered:
    """Whom connections watched at the owner before. A connection that has said so here is left alone."""

    def __init__(self, records: Records, folding: Folding, settings: PresenceSettings) -> None:
        self._records = records
        self._folding = folding
        self._settings = settings

    async def recall(self, user_ids: Sequence[str]) -> None:
        """Has the users' devices watch whom they watched by the same connections. While the Cache is away they watch all friends."""
        if not user_ids:
            return
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                found = await self._records.watches(user_ids)
        except (HitherError, TimeoutError) as error:
            _log.warning("watches.failed", error=str(error))
            return
        for user_id, watches in zip(user_ids, found, strict=True):
            for device_id, watch in watches.items():
                link = self._folding.link(user_id, device_id)
                if link == Link(watch.edge_id, watch.connection_id) and not self._folding.has_chosen(
                    user_id, device_id
                ):
                    self._folding.choose(user_id, device_id, frozenset(watch.user_ids))


class Interests:
    """Narrows and widens what connections are told. `connected` finds the device's connection, or raises NoSuchDevice."""

    def __init__(
        self,
        connected: Callable[[str, str], Awaitable[Link]],
        folding: Folding,
        records: Records,
        friends: Friends,
        watching: Watching,
        telling: Telling,
        settings: PresenceSettings,
    ) -> None:
        self._connected = connected
        self._folding = folding
        self._records = records
        self._friends = friends
        self._watching = watching
        self._telling = telling
        self._settings = settings

    async def watch(self, user_id: str, device_id: str, watched_ids: Collection[str]) -> list[PresenceEvent]:
        """The device wants to be told of these users (none: of all friends); returns what there is to see of them, by user id.
        Raises NoSuchDevice and Unavailable.
        """
        link = await self._connected(user_id, device_id)
        named = frozenset(watched_ids)
        self._folding.choose(user_id, device_id, named or None)
        watch = PresenceWatch(edge_id=link.edge_id, connection_id=link.connection_id, user_ids=sorted(named))
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._records.keep_watch(user_id, device_id, watch)
            await self._friends.follow_now(user_id)
            async with asyncio.timeout(self._settings.engine_timeout_s):
                found = await self._records.read(sorted(named))
        except TimeoutError:
            raise Unavailable("An engine does not answer in time.") from None
        if not named:
            self._telling.greet(user_id)
        for record in found:
            self._telling.remember(record)
        return [view(record, self._watching.relation(user_id, record.event.user_id)) for record in found]
