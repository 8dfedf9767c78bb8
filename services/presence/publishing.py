"""The owner's part: takes reports of the devices of its users, and publishes what they fold into."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import Counter, Gauge

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.presence.v1.presence_service_pb2 import DeviceReport
from services.ports.bus import Bus
from services.presence.errors import NoSuchDevice
from services.presence.folding import Folding, Link, Moment, Presence, Status
from services.presence.friends import Friends
from services.presence.records import Records, event_of, topic_of
from services.presence.settings import PresenceSettings

FindLink = Callable[[str, str], Awaitable[Link | None]]
"""The live connection of a user's device, from the session registry."""

_changes = Counter("hither_presence_changes", "Changes of presence that were published.")
_undone = Counter("hither_presence_undone_changes", "Changes that were undone before they were published.")
_failures = Counter("hither_presence_publish_failures", "Changes that could not be published and were kept.")
_devices = Gauge("hither_presence_devices", "Connected devices of the users that this process owns.")
_log = structlog.get_logger("hither.presence")


class Publishing:
    """The presence of the users that this process owns."""

    def __init__(
        self,
        folding: Folding,
        records: Records,
        bus: Bus,
        friends: Friends,
        find_link: FindLink,
        clock: Clock,
        settings: PresenceSettings,
    ) -> None:
        self._folding = folding
        self._records = records
        self._bus = bus
        self._friends = friends
        self._find_link = find_link
        self._clock = clock
        self._settings = settings

    async def report(self, reports: Sequence[DeviceReport]) -> None:
        """Takes over what an edge reports, in order, and renews the records of who is there.

        Raises ResourceExhausted (OVERLOADED), then what comes after in the reports was not taken over.
        """
        moment = self._moment()
        for one in reports:
            link = Link(one.edge_id, one.connection_id)
            if not one.connected:
                self._folding.disconnect(one.user_id, one.device_id, link, moment)
            elif self._folding.connect(one.user_id, one.device_id, link, moment):
                self._friends.arrived(one.user_id)
        here = {one.user_id for one in reports if one.connected}
        try:
            await self._records.write(shown for user_id in here if (shown := self._folding.shown(user_id)))
        except HitherError as error:  # what was reported counts; the record is written again by the next report
            _log.warning("renewing.failed", error=str(error))

    async def set_status(self, user_id: str, device_id: str, status: Status) -> None:
        """A device is in use or not. Raises NoSuchDevice if it is not connected."""
        if self._folding.set_status(user_id, device_id, status, self._moment()):
            return
        # Connected a moment ago, or this instance has just become the owner: the edge's report is still to come.
        link = await self._find_link(user_id, device_id)
        if link is None:
            raise NoSuchDevice("The device is not connected.")
        if self._folding.connect(user_id, device_id, link, self._moment()):
            self._friends.arrived(user_id)
        self._folding.set_status(user_id, device_id, status, self._moment())

    def drop(self, is_owned: Callable[[str], bool]) -> None:
        """Forgets the users who are owned elsewhere now."""
        for user_id in self._folding.keep(is_owned):
            self._friends.left(user_id)

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            await self.step()

    async def step(self) -> None:
        """Lets devices run out, and publishes what has gathered long enough."""
        moment = self._moment()
        self._folding.expire(moment)
        _devices.set(len(self._folding))
        users = self._folding.gathered(moment)
        if not users:
            return
        changes = await self._changes_of(users)
        for change in changes:
            await self._publish(change)
        for user_id in users:
            if not self._folding.is_here(user_id):
                self._friends.left(user_id)

    async def _changes_of(self, users: Sequence[str]) -> list[Presence]:
        """What is to be told of the users, on record already."""
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                new = [user_id for user_id in users if not self._folding.is_known(user_id)]
                for user_id, told in (await self._records.told(new)).items():
                    self._folding.recall(user_id, told)
                changes = {user_id: self._folding.change(user_id) for user_id in users}
                await self._records.write(change for change in changes.values() if change)
        except (HitherError, TimeoutError) as error:
            for user_id in users:
                self._again(user_id, error)
            return []
        for user_id, change in changes.items():
            if change is None:
                _undone.inc()
                self._folding.rest(user_id)
        return [change for change in changes.values() if change]

    async def _publish(self, change: Presence) -> None:
        if not self._folding.is_here(change.user_id):
            return  # owned elsewhere now
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._bus.publish(topic_of(change.user_id), event_of(change).SerializeToString())
        except (HitherError, TimeoutError) as error:
            self._again(change.user_id, error)
            return
        _changes.inc()
        self._folding.tell(change, self._moment())

    def _again(self, user_id: str, error: Exception) -> None:
        _failures.inc()
        _log.warning("publishing.failed", error=str(error))
        self._folding.again(user_id, self._moment())

    def _moment(self) -> Moment:
        return Moment(self._clock.monotonic_s(), self._clock.now_ms())
