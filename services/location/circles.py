"""Who of a user's friends may be near, found for all of them at once. It may name too many, never too few: who is shown what is
decided for each pair by nearness.seen(). Pure: fed with records and with who follows whom.
"""

from services.following import Following
from services.location.distance import Numbers, Places
from services.location.precision import Fix, snapped
from services.location.records import Record
from services.ports.privacy_store import Precision

_Numbered = dict[str, tuple[tuple[str, ...], Numbers]]
"""By user: a list as `following` gave it, and the numbers of those in it."""


class Circles:
    """The places of the users whose news come, and who of those is around whom."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self._places = Places()
        self._coarse: dict[str, tuple[Fix, list[tuple[float, float]]]] = {}
        """Where a user may be shown to those who may not know it exactly, kept since it changes seldom."""
        self._followers: _Numbered = {}
        self._followed: _Numbered = {}

    def put(self, record: Record, radius_miles: float) -> None:
        """The user, whose news come, is there and looks so far."""
        assert record.fix is not None
        coarse = record.coarse or record.fix
        known = self._coarse.get(record.user_id)
        if known is None or known[0] != coarse:
            cells = [snapped(coarse, precision) for precision in (Precision.KILOMETRE, Precision.CITY)]
            known = self._coarse[record.user_id] = coarse, [(cell.lat, cell.lng) for cell in cells]
        self._places.put(record.user_id, [(record.fix.lat, record.fix.lng), *known[1]], radius_miles)

    def remove(self, user_id: str) -> None:
        """Nobody is near the user."""
        self._coarse.pop(user_id, None)
        self._places.remove(user_id)

    def forget_viewer(self, user_id: str) -> None:
        """The user is not local any more."""
        self._followed.pop(user_id, None)

    def forget(self, user_id: str) -> None:
        """News of the user come no more, so the user is in nobody's list."""
        self.remove(user_id)
        self._places.forget(user_id)
        self._followers.pop(user_id, None)
        self._followed.pop(user_id, None)

    def viewers_near(self, owner_id: str) -> list[str]:
        """The followers who look as far as one of the places at which the owner, who has one, may be shown."""
        followers = self._following.followers_of(owner_id)
        numbers = self._numbers(self._followers, owner_id, followers)
        return [followers[index] for index in self._places.seeing(owner_id, numbers)] if followers else []

    def owners_near(self, viewer_id: str) -> list[str]:
        """Those whom the viewer follows, one of whose places is where the viewer looks."""
        followed = self._following.list_followed_by(viewer_id)
        numbers = self._numbers(self._followed, viewer_id, followed)
        return [followed[index] for index in self._places.seen(viewer_id, numbers)] if followed else []

    def _numbers(self, numbered: _Numbered, user_id: str, others: tuple[str, ...]) -> Numbers:
        known = numbered.get(user_id)
        if known is None or known[0] is not others:
            known = numbered[user_id] = others, self._places.numbers_of(others)
        return known[1]
