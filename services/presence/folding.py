"""What a user's devices come to: one status, and when it is worth telling. Pure: fed with reports and the time.

A user is ONLINE if one device is, else AWAY if one is, else OFFLINE. A device that is not reported again in time is gone.
What differs from what was told last begins a gathering; what holds when the gathering ends is told, so a change that was
undone within it is told to nobody, and a user who flaps is told of once for each gathering at most. Connections that break
are mostly there again soon: who has just lost the last one stays as told for a while longer.

Who is new here may have been told of by another owner before: such a user is not `known` until recall() has said what
was told last, and what holds is only compared with it then.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from types import MappingProxyType
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
    text: str = ""


class Told(NamedTuple):
    """What changes of are told."""

    status: Status
    text: str = ""


ABSENT = Told(Status.OFFLINE)
Interest = frozenset[str] | None
"""The users whose news a device wants; None: all friends."""
_EVERYTHING: Mapping[str, Interest] = MappingProxyType({})


@dataclass(slots=True)
class _Device:
    link: Link
    status: Status | None = None
    """What the device said; None: nothing yet, which counts as ONLINE."""
    interest: Interest = None
    has_chosen: bool = False
    """Whether the device said what it is interested in."""


@dataclass(slots=True)
class _User:
    last_seen_ms: int = 0
    devices: dict[str, _Device] = field(default_factory=dict)
    text: str | None = None
    """What the user says; None: nothing was said here."""
    is_known: bool = False
    told: Told | None = None
    """What friends know; None: not known, so whatever it is must be told."""
    due_s: float | None = None
    """When the gathering ends, if there is one."""
    stays_until_s: float = 0.0
    """Until when a user without devices is not OFFLINE yet."""

    def now(self) -> Told:
        if not self.devices:
            return ABSENT
        return Told(min(device.status or Status.ONLINE for device in self.devices.values()), self.text or "")


class Folding:
    """The connected devices of users, and what is yet to be told of them. Users without either are forgotten."""

    def __init__(self, lifetime_s: float, gather_s: float, offline_after_s: float, most_devices: int) -> None:
        self._lifetime_s = lifetime_s
        self._gather_s = gather_s
        self._offline_after_s = offline_after_s
        self._most_devices = most_devices
        self._users: dict[str, _User] = {}
        self._expiries: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When each device runs out, soonest first: all live equally long, so the one reported last comes last."""
        self._gatherings: list[tuple[float, str]] = []
        """A heap of when gatherings end; those that are not their user's `due_s` are void."""

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
        user.stays_until_s = moment.now_s + self._offline_after_s
        self._compare(user_id, user, moment)

    def set_status(self, user_id: str, device_id: str, status: Status, text: str | None, moment: Moment) -> bool:
        """The device is in use or not, and (if given) what its user says; tells whether it is connected (else nothing
        changes).
        """
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        if user is None or device is None:
            return False
        device.status = status
        if text is not None:
            user.text = text
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

    def forgive(self, moment: Moment) -> None:
        """Nothing could be reported for a while: every device has its whole lifetime again."""
        for key in self._expiries:
            self._expiries[key] = moment.now_s + self._lifetime_s

    def gathered(self, moment: Moment) -> list[str]:
        """The users whose gathering is over. Each must be given to tell(), rest() or again() next."""
        users = []
        while self._gatherings and self._gatherings[0][0] <= moment.now_s:
            due_s, user_id = heappop(self._gatherings)
            user = self._users.get(user_id)
            if user is not None and user.due_s == due_s:
                user.due_s = None
                users.append(user_id)
        return users

    def is_known(self, user_id: str) -> bool:
        """Whether recall() has been called for the user since the user came."""
        user = self._users.get(user_id)
        return user is not None and user.is_known

    def recall(self, user_id: str, told: Told) -> None:
        """Says what was told of the user last, here or by the owner before. Who has said nothing here keeps it."""
        user = self._users.get(user_id)
        if user is None or user.is_known:
            return
        user.is_known, user.told = True, told
        if told.status is Status.AWAY:
            for device in user.devices.values():
                device.status = device.status or told.status
        if user.text is None:
            user.text = told.text

    def change(self, user_id: str, moment: Moment) -> Presence | None:
        """What is to be told of a known user now, and told of in tell() or again(); None: nothing (yet), it is what was told."""
        user = self._users.get(user_id)
        if user is None or not user.is_known or (now := user.now()) == user.told:
            return None
        if now is ABSENT and user.stays_until_s > moment.now_s:
            self._compare(user_id, user, moment)
            return None
        user.told = None  # until it is told, neither is what friends know
        return Presence(user_id, now.status, user.last_seen_ms if now is ABSENT else 0, now.text)

    def tell(self, presence: Presence, moment: Moment) -> None:
        """Says that this has been told. What came in between gathers anew."""
        user = self._users.get(presence.user_id)
        if user is None:
            return
        user.told = Told(presence.status, presence.text)
        if presence.status is Status.OFFLINE:
            user.text = None
        self._compare(presence.user_id, user, moment)
        self.rest(presence.user_id)

    def rest(self, user_id: str) -> None:
        """There is nothing to tell of the user; one who is not there is forgotten."""
        user = self._users.get(user_id)
        if user is not None and not user.devices and user.due_s is None:
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
        if user is None or not user.devices or user.told is None or user.told == ABSENT:
            return None
        return Presence(user_id, user.told.status, text=user.told.text)

    def link(self, user_id: str, device_id: str) -> Link | None:
        """The connection of the device, if it is connected."""
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        return device.link if device else None

    def choose(self, user_id: str, device_id: str, interest: Interest) -> None:
        """The device says whose news it wants, until it says so again or its connection ends."""
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        if device is not None:
            device.interest, device.has_chosen = interest, True

    def has_chosen(self, user_id: str, device_id: str) -> bool:
        """Whether the device, by its present connection, has said whose news it wants; so too if it is not connected."""
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user else None
        return device is None or device.has_chosen

    def interests(self, user_id: str) -> Mapping[str, Interest]:
        """Whose news each connected device of the user wants; empty if all want those of all friends."""
        user = self._users.get(user_id)
        if user is None:
            return _EVERYTHING
        for device in user.devices.values():
            if device.interest is not None:
                return {device_id: device.interest for device_id, device in user.devices.items()}
        return _EVERYTHING

    def keep(self, is_owned: Callable[[str], bool]) -> list[str]:
        """Forgets the users who are owned elsewhere now, and returns them."""
        gone = [user_id for user_id in self._users if not is_owned(user_id)]
        for user_id in gone:
            for device_id in self._users.pop(user_id).devices:
                del self._expiries[user_id, device_id]
        return gone

    def _compare(self, user_id: str, user: _User, moment: Moment) -> None:
        now = user.now()
        if now == user.told:
            return
        due_s = moment.now_s + self._gather_s
        if now is ABSENT:
            due_s = max(due_s, user.stays_until_s)
        if user.due_s is None or due_s < user.due_s:
            user.due_s = due_s
            heappush(self._gatherings, (due_s, user_id))
