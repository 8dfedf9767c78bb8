"""What somebody sees of a place who may not know it exactly: the middle of a fixed cell. Pure.

The Earth is cut into rows of equal height, and each row into as many equal cells as make them about as wide as high: so cells
are nearly squares everywhere, poles and 180 degrees included. A cell never depends on who asks, when or from where; everything
that is shown (place, distance, whether it is within the radius) comes of its middle. So asking from many places tells of
nothing but the cell.

Nor does the hour tell more: the place that is shown is that of the first fix of each 10 minutes, with their start as its time.
Otherwise the moment in which a friend is shown in the next cell would tell that the friend is on the line between the two.
"""

from dataclasses import dataclass
from math import cos, floor, pi, radians

from hither.location.v1.location_pb2 import LocationPrecision
from services.location.distance import EARTH_RADIUS_M
from services.ports.privacy_store import Precision

SLOT_MS = 600_000
_KILOMETRE_M = 1_000.0
_CITY_M = 20_000.0


@dataclass(frozen=True, slots=True)
class Fix:
    """A place at a time, in degrees; `time_ms` is the wall clock's."""

    lat: float
    lng: float
    time_ms: int
    accuracy_m: float = 0.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of about this size: `rows` is how many rows there are from pole to pole."""

    rows: int

    @classmethod
    def of(cls, size_m: float) -> "Grid":
        """With cells of at most about this height."""
        return cls(max(1, round(pi * EARTH_RADIUS_M / size_m)))

    def middle(self, lat: float, lng: float) -> tuple[float, float]:
        """The middle of the cell in which the place lies."""
        height = 180.0 / self.rows
        row = min(self.rows - 1, floor((lat + 90.0) / height))
        middle_lat = -90.0 + (row + 0.5) * height
        columns = max(1, round(2 * self.rows * cos(radians(middle_lat))))
        column = floor((lng + 180.0) % 360.0 / 360.0 * columns) % columns
        return middle_lat, -180.0 + (column + 0.5) * 360.0 / columns


_GRIDS = {Precision.KILOMETRE: Grid.of(_KILOMETRE_M), Precision.CITY: Grid.of(_CITY_M)}


def snapped(fix: Fix, precision: Precision) -> Fix:
    """The fix as one of this precision sees it; of less than EXACT, `fix` should be what coarse() gave. Not for HIDDEN."""
    if precision is Precision.EXACT:
        return fix
    lat, lng = _GRIDS[precision].middle(fix.lat, fix.lng)
    return Fix(lat, lng, slot_of(fix.time_ms))


def coarse(shown: Fix | None, fix: Fix) -> Fix:
    """Which fix counts for those who may not know the place exactly, where `shown` counted before `fix` came."""
    if shown is not None and slot_of(shown.time_ms) == slot_of(fix.time_ms):
        return shown
    return fix


def message_of(precision: Precision) -> LocationPrecision.ValueType:
    """As the contract says it: the numbers are the same."""
    return LocationPrecision.ValueType(precision.value)


def slot_of(time_ms: int) -> int:
    """The start of the 10 minutes."""
    return time_ms // SLOT_MS * SLOT_MS
