"""Whom users may have on their screens: kept before they are told, for longer than they are told, and by two owners at once."""

import pytest

from discovery.errors import Unavailable
from services.location.screens import UNSURE_MS, Screens
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> MemoryCache:
    return MemoryCache(clock)


@pytest.fixture
def screens(cache: MemoryCache, clock: ManualClock) -> Screens:
    return Screens(cache, clock)


async def kept(cache: MemoryCache, clock: ManualClock, user_id: str) -> set[str]:
    """As the next owner finds it."""
    return set((await Screens(cache, clock).look([user_id]))[user_id])


async def test_what_is_kept_the_next_owner_finds(screens: Screens, cache: MemoryCache, clock: ManualClock) -> None:
    assert await screens.keep({"ann": {"bob", "cem"}, "bob": {"ann"}}) == {}

    assert await kept(cache, clock, "ann") == {"bob", "cem"}
    assert await kept(cache, clock, "bob") == {"ann"}
    assert await kept(cache, clock, "nobody") == set()


async def test_only_what_is_not_kept_is_due(screens: Screens) -> None:
    await screens.look(["ann"])
    assert screens.due({"ann": {"bob"}}) == {"ann": {"bob"}}
    await screens.keep({"ann": {"bob", "cem"}})

    assert screens.due({"ann": {"bob"}}) == {}
    assert screens.due({"ann": {"dan"}}) == {"ann": {"dan"}}


async def test_what_is_kept_is_due_again_before_it_runs_out(screens: Screens, clock: ManualClock) -> None:
    await screens.keep({"ann": {"bob"}})
    clock.advance(3599)
    assert screens.due({"ann": {"bob"}}) == {}

    clock.advance(2)

    assert screens.due({"ann": {"bob"}}) == {"ann": {"bob"}}


async def test_far_more_kept_than_there_is_need_for_is_due(
    screens: Screens, cache: MemoryCache, clock: ManualClock
) -> None:
    await screens.keep({"ann": {f"friend-{number}" for number in range(70)}})
    due = screens.due({"ann": {"friend-1"}})

    await screens.keep(due)

    assert await kept(cache, clock, "ann") == {"friend-1"}


async def test_two_owners_at_once_lose_nobody(screens: Screens, cache: MemoryCache, clock: ManualClock) -> None:
    newer = Screens(cache, clock)
    await screens.keep({"ann": {"bob"}})
    assert await newer.look(["ann"]) == {"ann": {"bob"}}
    await screens.keep({"ann": {"bob", "cem"}})

    assert await newer.keep({"ann": {"dan"}}) == {"ann": {"cem"}}

    assert await kept(cache, clock, "ann") == {"cem", "dan"}


async def test_another_look_finds_only_what_others_have_kept_since(
    screens: Screens, cache: MemoryCache, clock: ManualClock
) -> None:
    newer = Screens(cache, clock)
    await newer.look(["ann"])
    await newer.keep({"ann": {"dan"}})
    assert await newer.look(["ann"]) == {"ann": set()}
    await screens.keep({"ann": {"bob"}})

    assert await newer.look(["ann"]) == {"ann": {"bob"}}


async def test_who_went_is_unsure_for_a_minute_unless_shown_again(screens: Screens, clock: ManualClock) -> None:
    screens.gone("ann", "bob")
    screens.gone("ann", "cem")
    screens.shown("ann", "cem")
    assert set(screens.unsure("ann")) == {"bob"}

    clock.advance(UNSURE_MS / 1000)

    assert set(screens.unsure("ann")) == set()


async def test_a_cache_that_is_away_is_told_as_such(
    screens: Screens, cache: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise Unavailable("away")

    monkeypatch.setattr(cache, "compare_and_set", away)

    with pytest.raises(Unavailable):
        await screens.keep({"ann": {"bob"}, "bob": {"ann"}})


async def test_who_left_is_not_known_any_more(screens: Screens) -> None:
    await screens.keep({"ann": {"bob"}})
    screens.gone("ann", "bob")

    screens.forget("ann")

    assert not screens.knows("ann")
    assert set(screens.unsure("ann")) == set()
