"""Who may be near whom, found for all friends at once: the same as asking for each pair, whatever has changed before."""

from hypothesis import given
from hypothesis import strategies as st

from services.following import Following
from services.location.circles import Circles
from services.location.precision import Fix
from services.location.records import Record, topic_of
from services.storage.memory.bus import MemoryBus

USERS = ("ann", "bob", "cid", "dan")
BERLIN = Fix(52.52, 13.405, 1)
PARIS = Fix(48.857, 2.352, 1)

user = st.sampled_from(USERS)
users = st.frozensets(user)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("follow"), user, users, users),
        st.tuples(st.just("sever"), user, user),
        st.tuples(st.just("forget"), user),
        st.tuples(st.just("move"), user, st.sampled_from((BERLIN, PARIS))),
        st.tuples(st.just("go"), user),
    ),
    max_size=20,
)


class Town:
    """A Following and its Circles, changed in any order, and everybody's place beside them."""

    def __init__(self) -> None:
        self.following = Following(MemoryBus(), topic_of, lambda *_: None, lambda *_: None)
        self.circles = Circles(self.following)
        self.fixes: dict[str, Fix] = {}

    async def change(self, what: str, user_id: str, *rest: object) -> None:
        """One of `changes`, as the service would make it."""
        match what, rest:
            case "follow", (frozenset() as friends, frozenset() as followed):
                await self.following.subscribe([user_id, *friends])
                self.following.follow(user_id, friends - {user_id}, friends & followed - {user_id})
            case "sever", (str() as other,):
                self.following.sever(user_id, other)
            case "forget", ():
                self.following.forget(user_id)
                self.circles.forget_viewer(user_id)
            case "move", (Fix() as fix,) if self.following.is_subscribed(user_id):
                self.fixes[user_id] = fix
                self.circles.put(Record(user_id, fix, None, 1), 5)
            case "go", ():
                self.fixes.pop(user_id, None)
                self.circles.remove(user_id)
        await self.following.close_idle(self._forget)

    def _forget(self, user_id: str) -> None:
        self.fixes.pop(user_id, None)
        self.circles.forget(user_id)

    def are_near(self, one: str, other: str) -> bool:
        """Both have a place, the same."""
        return one in self.fixes and self.fixes[one] == self.fixes.get(other)


@given(changes)
async def test_whoever_may_see_whom_is_found_after_any_changes(
    made: list[tuple[str, str] | tuple[str, str, object]],
) -> None:
    town = Town()
    begin = [("follow", one, frozenset(USERS), frozenset(USERS)) for one in USERS]
    for what, user_id, *rest in [*begin, *(("move", one, BERLIN) for one in USERS), *made]:
        await town.change(what, user_id, *rest)
        for one in USERS:
            town.circles.owners_near(one)  # so that lists are there to be outdated
            town.circles.viewers_near(one)

        for one in USERS:
            others = [other for other in USERS if town.are_near(one, other)]
            may_see = {other for other in others if town.following.may_tell(other, one)}
            follows = {other for other in others if other in town.following.followed_by(one)}
            assert set(town.circles.viewers_near(one)) == may_see
            assert set(town.circles.owners_near(one)) == follows
