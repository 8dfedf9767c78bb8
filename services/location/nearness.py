"""Who is near whom now, and what a viewer was told of it. Pure: fed with records, rules, friendships and the time.

Everything that is shown to anybody is decided in seen(), for events and for the list alike: whether, how exactly, and from where the
distance counts.
"""

from typing import NamedTuple

from hither.location.v1.location_pb2 import GoneReason
from services.location.distance import distance_miles
from services.location.plausibility import is_live
from services.location.precision import Fix, snapped
from services.location.records import Record
from services.ports.privacy_store import Precision

_SHOWN_DECIMALS = 3
_WORTH_TELLING_MILES = 0.05


class Sight(NamedTuple):
    """What a viewer sees of a friend nearby: the place as it is shown, and how far that is, in miles."""

    fix: Fix
    distance: float
    precision: Precision

    def differs(self, told: "Sight") -> bool:
        """Whether a viewer who was told that should be told this."""
        if self.precision is not told.precision or abs(self.distance - told.distance) > _WORTH_TELLING_MILES:
            return True
        if self.precision is Precision.EXACT:
            return self.fix != told.fix
        return (self.fix.lat, self.fix.lng) != (told.fix.lat, told.fix.lng)


LEFT = GoneReason.GONE_REASON_LEFT
STOPPED = GoneReason.GONE_REASON_STOPPED
EXPIRED = GoneReason.GONE_REASON_EXPIRED


def seen(
    viewer: Record | None, owner: Record | None, precision: Precision, radius_miles: float, now_ms: int
) -> Sight | GoneReason.ValueType:
    """What the viewer sees of the owner, who may be known to the viewer as exactly as `precision` says; or why nothing."""
    if precision is Precision.HIDDEN:
        return STOPPED
    if viewer is None or viewer.fix is None or not is_live(viewer.fix, now_ms):
        return EXPIRED
    if owner is None or owner.fix is None or not is_live(owner.fix, now_ms):
        return EXPIRED
    shown = owner.fix if precision is Precision.EXACT else snapped(owner.coarse or owner.fix, precision)
    distance = distance_miles(viewer.fix.lat, viewer.fix.lng, shown.lat, shown.lng)
    if distance > radius_miles:
        return LEFT
    return Sight(shown, round(distance, _SHOWN_DECIMALS), precision)


class Shown:
    """What each local viewer was told last of each friend who was near then."""

    def __init__(self) -> None:
        self._by_viewer: dict[str, dict[str, Sight]] = {}
        self._viewers: dict[str, set[str]] = {}

    def told(self, viewer_id: str, owner_id: str) -> Sight | None:
        """What the viewer was told of the owner; None: nothing, or that the owner is gone."""
        return self._by_viewer.get(viewer_id, {}).get(owner_id)

    def viewers_of(self, owner_id: str) -> set[str]:
        """Who was told that the owner is near."""
        return set(self._viewers.get(owner_id, ()))

    def by(self, viewer_id: str) -> set[str]:
        """Who is near, as the viewer was told."""
        return set(self._by_viewer.get(viewer_id, ()))

    def put(self, viewer_id: str, owner_id: str, sight: Sight) -> bool:
        """The viewer is told; returns whether the owner was not near before."""
        sights = self._by_viewer.setdefault(viewer_id, {})
        is_new = owner_id not in sights
        sights[owner_id] = sight
        self._viewers.setdefault(owner_id, set()).add(viewer_id)
        return is_new

    def remove(self, viewer_id: str, owner_id: str) -> bool:
        """The viewer is told that the owner is gone; returns whether the owner was near."""
        sights = self._by_viewer.get(viewer_id, {})
        if sights.pop(owner_id, None) is None:
            return False
        viewers = self._viewers[owner_id]
        viewers.discard(viewer_id)
        if not viewers:
            del self._viewers[owner_id]
        if not sights:
            del self._by_viewer[viewer_id]
        return True

    def forget(self, viewer_id: str) -> None:
        """Nothing is known any more of what the viewer was told."""
        for owner_id in self.by(viewer_id):
            self.remove(viewer_id, owner_id)
