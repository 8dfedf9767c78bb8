"""Whatever happens in whatever order, nobody is shown what nobody allowed: against a model that knows the rules by heart."""

import asyncio
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import NotFound
from hither.location.v1.location_pb2 import FriendLocationGoneEvent, FriendLocationUpdateEvent
from services.location.distance import distance_miles
from services.location.precision import Fix, snapped
from services.ports.privacy_store import Precision
from tests.unit.location.nearby_desk import CITY, EXACT, HIDDEN, KILOMETRE, Desk, World

PEOPLE = ("ann", "bob", "eve")
PLACES = [(52.52 + north * 0.02, 13.405) for north in range(5)]
PAIRS = st.sampled_from(list(permutations(PEOPLE, 2)))
PRECISIONS = st.sampled_from([HIDDEN, CITY, KILOMETRE, EXACT])
ONE = st.sampled_from(PEOPLE)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("befriend"), PAIRS),
        st.tuples(st.just("part"), PAIRS),
        st.tuples(st.just("share"), ONE, st.booleans(), PRECISIONS),
        st.tuples(st.just("grant"), PAIRS, PRECISIONS, st.sampled_from([0, 30, 200])),
        st.tuples(st.just("revoke"), PAIRS),
        st.tuples(st.just("move"), ONE, st.integers(0, len(PLACES) - 1)),
        st.tuples(st.just("pass"), st.sampled_from([20, 120, 400])),
        st.tuples(st.just("reconnect"), ONE),
        st.tuples(st.just("lose"), st.just(0)),
    ),
    min_size=5,
    max_size=25,
)


@dataclass
class Model:
    """What holds, said as plainly as can be."""

    friends: set[frozenset[str]] = field(default_factory=set)
    shares: dict[str, bool] = field(default_factory=dict)
    default: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PEOPLE, int(EXACT)))
    grants: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    fixes: dict[str, list[Fix]] = field(default_factory=dict)

    def precision(self, owner: str, viewer: str, now_ms: int) -> Precision:
        if frozenset((owner, viewer)) not in self.friends or not self.shares.get(owner) or not self.shares.get(viewer):
            return Precision.HIDDEN
        precision, ends_ms = self.grants.get((owner, viewer), (self.default[owner], 0))
        return Precision.HIDDEN if ends_ms and ends_ms <= now_ms else Precision(precision)

    def live(self, user_id: str, now_ms: int) -> list[Fix]:
        return [fix for fix in self.fixes.get(user_id, []) if now_ms < fix.time_ms + 600_000]


class Checked:
    """A desk, and the model beside it."""

    def __init__(self) -> None:
        self.world = World()
        self.desk = Desk(self.world)
        self.model = Model()
        self.near: dict[str, set[str]] = {one: set() for one in PEOPLE}
        """Whom each client shows, as its events say."""

    async def step(self, step: tuple[object, ...]) -> None:  # noqa: C901 - a line or two for each kind
        match step:
            case ("befriend", (str(one), str(other))):
                self.model.friends.add(frozenset((one, other)))
                await self.world.befriend(one, other)
            case ("part", (str(one), str(other))):
                self.model.friends.discard(frozenset((one, other)))
                await self.world.part(one, other)
            case ("share", str(one), bool(enabled), int(precision)):
                self.model.shares[one] = enabled
                self.model.default[one] = precision
                if not enabled:
                    self.model.fixes.pop(one, None)
                await self.desk.share(one, enabled, precision)  # type: ignore[arg-type] # an enum of the contract
            case ("grant", (str(one), str(other)), int(precision), int(seconds)):
                await self._grant(one, other, precision, seconds)
            case ("revoke", (str(one), str(other))):
                self.model.grants.pop((one, other), None)
                await self.desk.revoke(one, other)
            case ("move", str(one), int(number)):
                await self.desk.move(one, PLACES[number], after_s=60)
                await self.desk.pass_time(1)
                if self.model.shares.get(one):
                    fix = Fix(*PLACES[number], self.world.clock.now_ms() - 1000)
                    self.model.fixes.setdefault(one, []).append(fix)
            case ("pass", int(seconds)):
                await self.desk.pass_time(seconds)
            case ("reconnect", str(one)):
                self.near[one].clear()
                await self.desk.connect(one)
            case ("lose", _):
                for one in PEOPLE:
                    self.desk.nearby._showing.take_gap(f"location:{one}")

    async def _grant(self, one: str, other: str, precision: int, seconds: int) -> None:
        if frozenset((one, other)) not in self.model.friends:
            with pytest.raises(NotFound):
                await self.desk.grant(one, other, precision, seconds)  # type: ignore[arg-type] # an enum of the contract
            return
        await self.desk.grant(one, other, precision, seconds)  # type: ignore[arg-type] # as above
        ends_ms = self.world.clock.now_ms() + seconds * 1000 if seconds else 0
        self.model.grants[one, other] = precision, ends_ms

    async def check(self) -> None:
        """Nothing that came, and nothing that is on a list or a client's screen, is more than the model allows now."""
        await self.desk.settle()
        now_ms = self.world.clock.now_ms()
        for viewer, event in self.world.events():
            if isinstance(event, FriendLocationGoneEvent):
                self.near[viewer].discard(event.friend_id)
                continue
            self.near[viewer].add(event.friend_id)
            self._allowed(viewer, event, Fix(event.lat, event.lng, event.timestamp.ToMilliseconds()), now_ms)
        for viewer in PEOPLE:
            listed = (await self.desk.near(viewer)).friends
            for friend in listed:
                fix = Fix(friend.fix.lat, friend.fix.lng, friend.fix.timestamp.ToMilliseconds())
                event = FriendLocationUpdateEvent(
                    friend_id=friend.friend_id, distance=friend.distance, precision=friend.precision
                )
                self._allowed(viewer, event, fix, now_ms)
            assert self.near[viewer] == {friend.friend_id for friend in listed}

    def _allowed(self, viewer: str, event: FriendLocationUpdateEvent, shown: Fix, now_ms: int) -> None:
        precision = self.model.precision(event.friend_id, viewer, now_ms)
        assert precision is not Precision.HIDDEN
        assert event.precision == precision.value
        mine, theirs = self.model.live(viewer, now_ms), self.model.live(event.friend_id, now_ms)
        assert mine
        assert theirs
        if precision is Precision.EXACT:
            assert (shown.lat, shown.lng) == (theirs[-1].lat, theirs[-1].lng)
        else:
            cells = {snapped(fix, precision) for fix in self.model.fixes[event.friend_id]}
            assert shown in cells
        distance = distance_miles(mine[-1].lat, mine[-1].lng, shown.lat, shown.lng)
        assert abs(event.distance - distance) < 0.001
        assert distance <= 5


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_nobody_is_ever_shown_more_than_was_allowed_at_that_time(steps: list[tuple[object, ...]]) -> None:
    async def play() -> None:
        checked = Checked()
        await checked.desk.start()
        for one in PEOPLE:
            await checked.desk.connect(one)
            await checked.step(("share", one, True, int(EXACT)))
            await checked.step(("move", one, 0))
        await checked.step(("befriend", ("ann", "bob")))
        await checked.check()
        for step in steps:
            await checked.step(step)
            await checked.check()

    asyncio.run(play())
