"""Friends nearby as a list: the first screen of a client that has no connection yet. Asks for everything anew, and shows nothing
that events would not show.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from discovery.clock import Clock
from discovery.errors import Unavailable
from hither.location.v1.location_pb2 import NearbyFriend
from services.location.consent import is_close, seen_by
from services.location.names import Names
from services.location.nearness import Sight, seen
from services.location.precision import message_of
from services.location.records import Records, fill_fix
from services.location.rules import KnownRules
from services.location.settings import LocationSettings
from services.location.views import Views
from services.paging import decode_token, encode_token
from services.ports.privacy_store import GrantRow, PrivacyStore


def most_relevant(friend_ids: Sequence[str], grants: Mapping[str, GrantRow], most: int, now_ms: int) -> list[str]:
    """Those of the friends whose places count for a viewer with these grants: those who decided about the viewer first."""
    return sorted(friend_ids, key=lambda one: (not is_close(grants.get(one), now_ms), one))[:most]


class Listing:
    """Pages of friends nearby. Each page is put together anew: who comes or goes between two may be on both or on neither."""

    def __init__(
        self,
        store: PrivacyStore,
        rules: KnownRules,
        records: Records,
        friends_of: Callable[[str], Awaitable[Sequence[str]]],
        names: Names,
        views: Views,
        clock: Clock,
        settings: LocationSettings,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._friends_of = friends_of
        self._names = names
        self._views = views
        self._clock = clock
        self._settings = settings

    async def page(
        self, user_id: str, radius_miles: float, size: int, token: str
    ) -> tuple[Sequence[NearbyFriend], str]:
        """At most `size` friends, and the token of the next page (empty: there is none). A radius of zero is as far as the user
        looks. Raises InvalidArgument (BAD_PAGE_TOKEN) and Unavailable.
        """
        list_name = f"nearby-friends/{user_id}/{radius_miles}"
        after = decode_token(list_name, token, 2)
        sights = sorted((await self._sights(user_id, radius_miles)).items(), key=lambda one: (one[1].distance, one[0]))
        if after is not None:
            last = float(after[0]), after[1]
            sights = [(one, sight) for one, sight in sights if (sight.distance, one) > last]
        page = sights[:size]
        names = await self._names.of(friend_id for friend_id, _ in page)
        for friend_id, sight in page:
            self._views.note(friend_id, user_id, sight.precision)
        friends = [_friend(friend_id, names[friend_id], sight) for friend_id, sight in page]
        if len(sights) <= size:
            return friends, ""
        return friends, encode_token(list_name, repr(page[-1][1].distance), page[-1][0])

    async def _sights(self, user_id: str, radius_miles: float) -> Mapping[str, Sight]:
        friend_ids = await self._friends_of(user_id)
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                grants = await self._rules.grants_for(user_id, friend_ids)
                chosen = most_relevant(friend_ids, grants, self._settings.most_followed, self._clock.now_ms())
                records = await self._records.read([user_id, *chosen])
                # The rules last: nothing that was taken back before they are read is shown.
                rows = await self._store.privacy([user_id, *chosen])
                grants = await self._rules.grants_for(user_id, chosen)
        except TimeoutError:
            raise Unavailable("The places could not be read in time.") from None
        me, now_ms = records.get(user_id), self._clock.now_ms()
        radius = radius_miles or (me.radius_miles if me else 0.0) or self._settings.radius_miles
        found: dict[str, Sight] = {}
        for friend_id in chosen:
            precision = seen_by(rows[friend_id], rows[user_id], grants.get(friend_id), now_ms)
            sight = seen(me, records.get(friend_id), precision, radius, now_ms)
            if isinstance(sight, Sight):
                found[friend_id] = sight
        return found


def _friend(friend_id: str, name: str, sight: Sight) -> NearbyFriend:
    friend = NearbyFriend(
        friend_id=friend_id, name=name, distance=sight.distance, precision=message_of(sight.precision)
    )
    fill_fix(friend.fix, sight.fix)
    return friend
