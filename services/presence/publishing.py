"""The owner's part: takes reports of the devices of its users, and publishes what they fold into."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import Counter, Gauge

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from hither.presence.v1.presence_service_pb2 import DeviceReport
from services.ports.bus import Bus
from services.presence.errors import NoSuchDevice
from services.presence.folding import Folding, Link, Moment, Presence, Status
from services.presence.friends import Friends
from services.presence.privacy import Privacy
from services.presence.records import Records, told_of, topic_of
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
        privacy: Privacy,
        bus: Bus,
        friends: Friends,
        find_link: FindLink,
        clock: Clock,
        settings: PresenceSettings,
    ) -> None:
        self._folding = folding
        self._records = records
        self._privacy = privacy
        self._bus = bus
        self._friends = friends
        self._find_link = find_link
        self._clock = clock
        self._settings = settings
        self._stepped_s = clock.monotonic_s()

    async def report(self, reports: Sequence[DeviceReport]) -> None:
        """Takes over what an edge reports, in order, and renews the records of who is there.

        Raises ResourceExhausted (OVERLOADED), then what comes after in the reports was not taken over.
        """
        moment = self._moment()
        for one in reports:
            link = Link(one.edge_id, one.connection_id)
            if not one.connected:
                self._folding.disconnect(one.user_id, one.device_id, link, moment)
                self._friends.narrowed(one.user_id)
            elif self._folding.connect(one.user_id, one.device_id, link, moment):
                self._friends.arrived(one.user_id)
        here = {one.user_id for one in reports if one.connected}
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._privacy.write(shown for user_id in here if (shown := self._folding.shown(user_id)))
        except (
            HitherError,
            TimeoutError,
        ) as error:  # what was reported counts; the record is written again by the next report
            _log.warning("renewing.failed", error=str(error))

    async def set_status(self, user_id: str, device_id: str, status: Status, text: str | None) -> None:
        """A device is in use or not, and (if given) what its user says. Raises NoSuchDevice if it is not connected."""
        await self.connected(user_id, device_id)
        self._folding.set_status(user_id, device_id, status, text, self._moment())

    async def connected(self, user_id: str, device_id: str) -> Link:
        """The connection of the device. Raises NoSuchDevice if it is not connected."""
        link = self._folding.link(user_id, device_id)
        if link is not None:
            return link
        # Connected a moment ago, or this instance has just become the owner: the edge's report is still to come.
        link = await self._find_link(user_id, device_id)
        if link is None:
            raise NoSuchDevice("The device is not connected.")
        if self._folding.connect(user_id, device_id, link, self._moment()):
            self._friends.arrived(user_id)
        return link

    def drop(self, is_owned: Callable[[str], bool]) -> None:
        """Forgets the users who are owned elsewhere now."""
        for user_id in self._folding.keep(is_owned):
            self._left(user_id)

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            await self.step()

    async def step(self) -> None:
        """Lets devices run out, and publishes what has gathered long enough."""
        moment = self._moment()
        if moment.now_s - self._stepped_s > self._settings.device_lifetime_s / 2:
            self._folding.forgive(moment)  # this process stood still, and nobody could report anything to it
        self._stepped_s = moment.now_s
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
                self._left(user_id)

    async def _changes_of(self, users: Sequence[str]) -> list[Presence]:
        """What is to be told of the users, on record already."""
        moment = self._moment()
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._recall([user_id for user_id in users if not self._folding.is_known(user_id)])
                changes = {
                    user_id: self._folding.change(user_id, moment) for user_id in users if self._privacy.knows(user_id)
                }
                await self._privacy.write(change for change in changes.values() if change)
        except (HitherError, TimeoutError) as error:
            for user_id in users:
                self._again(user_id, error)
            return []
        for user_id in users:
            if user_id not in changes:
                self._again(user_id, Unavailable("What the user lets be known is not known."))
        for user_id, change in changes.items():
            if change is None:
                _undone.inc()
                self._folding.rest(user_id)
        return [change for change in changes.values() if change]

    async def _recall(self, user_ids: Sequence[str]) -> None:
        """Finds out what was told of users who are new here, and who may know it."""
        recorded = {record.event.user_id: record for record in await self._records.read(user_ids)}
        await self._privacy.load(recorded)
        for user_id, record in recorded.items():
            if self._privacy.knows(user_id):
                self._folding.recall(user_id, told_of(record))

    def _left(self, user_id: str) -> None:
        self._friends.left(user_id)
        self._privacy.forget(user_id)

    async def _publish(self, change: Presence) -> None:
        if not self._folding.is_here(change.user_id):
            return  # owned elsewhere now
        if self._privacy.is_for_nobody(change.user_id):
            self._folding.tell(
                change, self._moment()
            )  # on record for the next owner, and for when friends may know again
            return
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                record = self._privacy.record_of(change)
                await self._bus.publish(topic_of(change.user_id), record.SerializeToString())
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
