"""What a user's devices come to: one status, and when it is worth telling. Pure: fed with reports and the time.

A user is ONLINE if one device is, else AWAY if one is, else OFFLINE. A device that is not reported again in time is gone.
A status that differs from what was told last begins a gathering; what holds when the gathering ends is told, so a
change that was undone within it is told to nobody, and a user who flaps is told of once for each gathering at most.

Who is new here may have been told of by another owner before: such a user is not `known` until recall() has said what
was told last, and a status is only compared with it then.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from discovery.errors import ResourceExhausted
from hither.presence.v1.presence_pb2 import PresenceStatus


class Status(IntEnum):
    """The contract's statuses; the smaller one wins where devices differ."""

    ONLINE = PresenceStatus.PRESENCE_STATUS_ONLINE
    AWAY = PresenceStatus.PRESENCE_STATUS_AWAY
    OFFLINE = PresenceStatus.PRESENCE_STATUS_OFFLINE


class Moment(NamedTuple):
    """Now, on both clocks: `now_s` never goes back, `now_ms` is what people read."""

    now_s: float
    now_ms: int


class Link(NamedTuple):
    """The connection of a device."""

    edge_id: str
    connection_id: int


@dataclass(frozen=True, slots=True)
class Presence:
    """What is told of a user. `last_seen_ms` is when a device was last connected: zero while one is."""

    user_id: str
    status: Status
    last_seen_ms: int = 0


@dataclass(slots=True)
class _Device:
    link: Link
    status: Status | None = None
    """What the device said; None: nothing yet, which counts as ONLINE."""


@dataclass(slots=True)
class _User:
    last_seen_ms: int = 0
    devices: dict[str, _Device] = field(default_factory=dict)
    is_known: bool = False
    told: Status | None = None
    """What friends know; None: not known, so whatever it is must be told."""
    is_gathering: bool = False

    def status(self) -> Status:
        return min((device.status or Status.ONLINE for device in self.devices.values()), default=Status.OFFLINE)


class Folding:
    """The connected devices of users, and what is yet to be told of them. Users without either are forgotten."""

    def __init__(self, lifetime_s: float, gather_s: float, most_devices: int) -> None:
        self._lifetime_s = lifetime_s
        self._gather_s = gather_s
        self._most_devices = most_devices
        self._users: dict[str, _User] = {}
        self._expiries: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When each device runs out, soonest first: all live equally long, so the one reported last comes last."""
        self._gatherings: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        """How many devices are connected."""
        return len(self._expiries)

    def connect(self, user_id: str, device_id: str, link: Link, moment: Moment) -> bool:
        """The device is connected, by this connection; tells whether the connection is new.

        Raises ResourceExhausted (OVERLOADED) for one device more than there may be.
        """
        key = (user_id, device_id)
        if key not in self._expiries and len(self._expiries) >= self._most_devices:
            raise ResourceExhausted("This instance keeps the presence of no more devices.", reason="OVERLOADED")
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _User()
        self._expiries[key] = moment.now_s + self._lifetime_s
        self._expiries.move_to_end(key)
        user.last_seen_ms = max(user.last_seen_ms, moment.now_ms)
        device = user.devices.get(device_id)
        if device is not None and device.link == link:
            return False
        user.devices[device_id] = _Device(link)
        self._compare(user_id, user, moment)
        return True

    def disconnect(self, user_id: str, device_id: str, link: Link, moment: Moment) -> None:
        """The connection is gone. Does nothing if it is not the device's any more."""
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        if user is None or device is None or device.link != link:
            return
        del user.devices[device_id], self._expiries[user_id, device_id]
        user.last_seen_ms = max(user.last_seen_ms, moment.now_ms)
        self._compare(user_id, user, moment)

    def set_status(self, user_id: str, device_id: str, status: Status, moment: Moment) -> bool:
        """The device is in use or not; tells whether it is connected (else nothing changes)."""
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        if user is None or device is None:
            return False
        device.status = status
        self._compare(user_id, user, moment)
        return True

    def expire(self, moment: Moment) -> None:
        """Lets devices go that were not reported for too long; their users were last seen at the last report."""
        while self._expiries:
            (user_id, device_id), expires_s = next(iter(self._expiries.items()))
            if expires_s > moment.now_s:
                return
            del self._expiries[user_id, device_id]
            user = self._users[user_id]
            del user.devices[device_id]
            self._compare(user_id, user, moment)

    def gathered(self, moment: Moment) -> list[str]:
        """The users whose gathering is over. Each must be given to tell(), rest() or again() next."""
        users = []
        while self._gatherings and self._gatherings[0][0] <= moment.now_s:
            _, user_id = self._gatherings.popleft()
            user = self._users.get(user_id)
            if user is not None and user.is_gathering:
                user.is_gathering = False
                users.append(user_id)
        return users

    def is_known(self, user_id: str) -> bool:
        """Whether recall() has been called for the user since the user came."""
        user = self._users.get(user_id)
        return user is not None and user.is_known

    def recall(self, user_id: str, told: Status) -> None:
        """Says what was told of the user last, here or by the owner before. A device that has said nothing here keeps it."""
        user = self._users.get(user_id)
        if user is None or user.is_known:
            return
        user.is_known, user.told = True, told
        if told is Status.AWAY:
            for device in user.devices.values():
                device.status = device.status or told

    def change(self, user_id: str) -> Presence | None:
        """What is to be told of a known user now, and told of in tell() or again(); None: nothing, it is what was told."""
        user = self._users.get(user_id)
        if user is None or not user.is_known or user.status() == user.told:
            return None
        status = user.status()
        user.told = None  # until it is told, neither is what friends know
        return Presence(user_id, status, user.last_seen_ms if status is Status.OFFLINE else 0)

    def tell(self, presence: Presence, moment: Moment) -> None:
        """Says that this has been told. What came in between gathers anew."""
        user = self._users.get(presence.user_id)
        if user is None:
            return
        user.told = presence.status
        self._compare(presence.user_id, user, moment)
        self.rest(presence.user_id)

    def rest(self, user_id: str) -> None:
        """There is nothing to tell of the user; one who is not there is forgotten."""
        user = self._users.get(user_id)
        if user is not None and not user.devices and not user.is_gathering:
            del self._users[user_id]

    def again(self, user_id: str, moment: Moment) -> None:
        """Telling failed, perhaps half-way: if there was a change, what holds after another gathering is told, whatever it is."""
        user = self._users.get(user_id)
        if user is None:
            return
        self._compare(user_id, user, moment)
        self.rest(user_id)

    def is_here(self, user_id: str) -> bool:
        """Whether the user has a connected device, or friends do not know yet that there is none."""
        return user_id in self._users

    def shown(self, user_id: str) -> Presence | None:
        """What friends see of a user who has a connected device and was told of; None for others."""
        user = self._users.get(user_id)
        if user is None or not user.devices or user.told is None or user.told is Status.OFFLINE:
            return None
        return Presence(user_id, user.told)

    def keep(self, is_owned: Callable[[str], bool]) -> list[str]:
        """Forgets the users who are owned elsewhere now, and returns them."""
        gone = [user_id for user_id in self._users if not is_owned(user_id)]
        for user_id in gone:
            for device_id in self._users.pop(user_id).devices:
                del self._expiries[user_id, device_id]
        return gone

    def _compare(self, user_id: str, user: _User, moment: Moment) -> None:
        if not user.is_gathering and user.status() != user.told:
            user.is_gathering = True
            self._gatherings.append((moment.now_s + self._gather_s, user_id))
