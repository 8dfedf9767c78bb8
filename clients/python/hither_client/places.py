"""When a device should tell where it is: what the server asks for, obeyed. Pure: fed with places and the time.

The server says with each answer when it wants the next update and after which move. A device that lies still is told of once in
5 minutes all the same, or its user's friends would lose sight of it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from math import asin, cos, radians, sin, sqrt

_EARTH_RADIUS_M = 6_371_008.8
_MOST_APART_S = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the device is, in degrees north and east, and what it says of itself; None: it does not say.

    `timestamp` (aware) is when it was there: None for now. `accuracy_m` is the radius of 68% confidence, zero if not known.
    """

    lat: float
    lng: float
    accuracy_m: float = 0.0
    timestamp: datetime | None = None
    speed_mps: float | None = None
    battery_percent: int | None = None
    metered: bool = False

    def fields(self) -> dict[str, object]:
        """As they stand in the frame."""
        fields: dict[str, object] = {"lat": self.lat, "lng": self.lng}
        fields |= {"accuracy_m": self.accuracy_m} if self.accuracy_m else {}
        fields |= {"timestamp": self.timestamp.isoformat()} if self.timestamp else {}
        fields |= {} if self.speed_mps is None else {"speed_mps": self.speed_mps}
        fields |= {} if self.battery_percent is None else {"battery_percent": self.battery_percent}
        return fields | ({"metered": True} if self.metered else {})


@dataclass(frozen=True, slots=True)
class Advice:
    """When the server wants the next update, and after which move. Not `shared`: the user shares with nobody, nothing was kept."""

    next_update_s: int = 30
    min_move_m: int = 50
    shared: bool = False


PlaceSource = Callable[[], Awaitable[Place | None]]
"""Where the device is now; None: it will not tell any more."""


class Pace:
    """Which places to tell."""

    def __init__(self) -> None:
        self._advice = Advice()
        self._told: Place | None = None
        self._told_s = 0.0

    @property
    def wait_s(self) -> float:
        """How long to wait before looking where the device is again."""
        return float(self._advice.next_update_s)

    def is_due(self, place: Place, now_s: float) -> bool:
        """Whether to tell of the place."""
        if self._told is None or now_s - self._told_s >= _MOST_APART_S:
            return True
        return _distance_m(self._told, place) >= self._advice.min_move_m

    def told(self, place: Place, advice: Advice, now_s: float) -> None:
        """The server was told, and said this."""
        self._told, self._advice, self._told_s = place, advice, now_s


def _distance_m(one: Place, other: Place) -> float:
    phi, other_phi = radians(one.lat), radians(other.lat)
    square = sin((other_phi - phi) / 2) ** 2 + cos(phi) * cos(other_phi) * sin(radians(other.lng - one.lng) / 2) ** 2
    return 2 * _EARTH_RADIUS_M * asin(sqrt(min(1.0, square)))
