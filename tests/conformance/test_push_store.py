"""What every push store promises."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from discovery.errors import Unavailable
from services.ports.push_store import (
    FOREVER_MS,
    Platform,
    Preview,
    PushPreferences,
    PushSettingsRow,
    PushStore,
    PushTokenRow,
)
from tests.conformance.conftest import PushStoreRig

QUIET = PushSettingsRow("ann", Preview.TEXT, 22 * 60, 7 * 60, "Europe/Berlin")


def token(user: str, device: str, name: str = "", updated_ms: int = 1) -> PushTokenRow:
    return PushTokenRow(user, device, Platform.ANDROID, name or f"{user}'s {device}", updated_ms)


async def test_tokens_are_found_by_user_in_order_of_device(push_store: PushStore) -> None:
    for row in (token("ann", "b"), token("ann", "_"), token("ann", "B"), token("bob", "a"), token("eve", "a")):
        assert await push_store.put_token(row, 9)

    found = await push_store.tokens(["ann", "bob", "nobody"])

    assert found == {"ann": [token("ann", "B"), token("ann", "_"), token("ann", "b")], "bob": [token("bob", "a")]}
    assert await push_store.tokens([]) == {}


async def test_a_token_is_found_as_it_was_put(push_store: PushStore) -> None:
    long = PushTokenRow("ann", "phone", Platform.WEB, "ü{}" * 1_300, 1_790_000_000_123)

    await push_store.put_token(long, 1)

    assert await push_store.tokens(["ann"]) == {"ann": [long]}


async def test_a_devices_token_is_replaced(push_store: PushStore) -> None:
    await push_store.put_token(token("ann", "phone", "old"), 1)

    assert await push_store.put_token(PushTokenRow("ann", "phone", Platform.IOS, "new", 2), 1)

    assert await push_store.tokens(["ann"]) == {"ann": [PushTokenRow("ann", "phone", Platform.IOS, "new", 2)]}
    assert await push_store.put_token(token("bob", "phone", "old"), 1)  # nobody's any more


async def test_a_token_that_comes_from_another_device_is_that_ones_no_longer(push_store: PushStore) -> None:
    await push_store.put_token(token("ann", "phone", "t"), 9)
    await push_store.put_token(token("ann", "laptop", "u"), 9)

    assert await push_store.put_token(token("bob", "his", "t", 2), 9)
    assert await push_store.put_token(token("bob", "other", "u", 2), 9)
    assert await push_store.put_token(token("bob", "third", "u", 3), 9)

    assert await push_store.tokens(["ann", "bob"]) == {
        "bob": [token("bob", "his", "t", 2), token("bob", "third", "u", 3)]
    }


async def test_a_token_too_many_changes_nothing_but_one_that_is_there_may_change(push_store: PushStore) -> None:
    await push_store.put_token(token("ann", "a", "1"), 2)
    await push_store.put_token(token("ann", "b", "2"), 2)
    await push_store.put_token(token("bob", "x", "3"), 2)

    assert not await push_store.put_token(token("ann", "c", "3"), 2)

    assert await push_store.tokens(["ann", "bob"]) == {
        "ann": [token("ann", "a", "1"), token("ann", "b", "2")],
        "bob": [token("bob", "x", "3")],
    }
    assert await push_store.put_token(token("ann", "b", "4"), 2)
    assert await push_store.put_token(token("ann", "c", "4"), 2)  # it moves from one to the other
    assert [row.device_id for row in (await push_store.tokens(["ann"]))["ann"]] == ["a", "c"]


async def test_tokens_put_at_once_stay_within_the_most(push_store: PushStore) -> None:
    done = await asyncio.gather(*(push_store.put_token(token("ann", f"d{n}"), 5) for n in range(20)))

    assert sum(done) == 5
    assert len((await push_store.tokens(["ann"]))["ann"]) == 5


async def test_of_users_who_put_one_token_at_once_one_has_it(push_store: PushStore) -> None:
    users = [f"user{n}" for n in range(8)]

    done = await asyncio.gather(*(push_store.put_token(token(user, "phone", "shared"), 5) for user in users))

    assert all(done)
    assert len(await push_store.tokens(users)) == 1


async def test_users_who_change_phones_at_once_end_with_one_each(push_store: PushStore) -> None:
    for _ in range(10):
        await push_store.put_token(token("ann", "phone", "1"), 5)
        await push_store.put_token(token("bob", "phone", "2"), 5)
        await asyncio.gather(
            push_store.put_token(token("ann", "phone", "2"), 5), push_store.put_token(token("bob", "phone", "1"), 5)
        )

        held = {row.token for rows in (await push_store.tokens(["ann", "bob"])).values() for row in rows}
        assert held == {"1", "2"}


async def test_a_token_is_removed_if_it_is_this_one(push_store: PushStore) -> None:
    await push_store.put_token(token("ann", "phone", "new"), 5)
    await push_store.put_token(token("ann", "laptop"), 5)

    assert not await push_store.remove_token("ann", "phone", "old")
    assert not await push_store.remove_token("ann", "unknown")
    assert not await push_store.remove_token("bob", "phone")
    assert len((await push_store.tokens(["ann"]))["ann"]) == 2
    assert await push_store.remove_token("ann", "phone", "new")
    assert await push_store.remove_token("ann", "laptop")
    assert not await push_store.remove_token("ann", "laptop")
    assert await push_store.tokens(["ann"]) == {}


async def test_who_never_chose_has_the_defaults(push_store: PushStore) -> None:
    await push_store.put_token(token("ann", "phone"), 5)
    await push_store.put_settings(QUIET)

    found = await push_store.preferences(["bob", "ann"])

    assert found == {"bob": PushPreferences(PushSettingsRow("bob"), {}), "ann": PushPreferences(QUIET, {})}
    assert await push_store.preferences([]) == {}


async def test_settings_are_replaced_and_outlive_tokens_and_mutes(push_store: PushStore) -> None:
    await push_store.put_settings(PushSettingsRow("ann", Preview.SENDER))
    await push_store.put_settings(QUIET)

    await push_store.put_token(token("ann", "phone"), 5)
    await push_store.put_mute("ann", "g.1", FOREVER_MS, 5)

    assert (await push_store.preferences(["ann"]))["ann"] == PushPreferences(QUIET, {"g.1": FOREVER_MS})


async def test_a_mute_lasts_until_it_is_replaced_or_removed(push_store: PushStore) -> None:
    await push_store.put_mute("ann", "g.1", 1_790_000_000_000, 5)
    await push_store.put_mute("ann", "g.2", FOREVER_MS, 5)
    await push_store.put_mute("bob", "g.3", 7, 5)

    assert (await push_store.preferences(["ann"]))["ann"].mutes == {"g.1": 1_790_000_000_000, "g.2": FOREVER_MS}
    assert await push_store.put_mute("ann", "g.1", 9, 5)
    assert await push_store.remove_mute("ann", "g.2")
    assert not await push_store.remove_mute("ann", "g.2")
    assert not await push_store.remove_mute("ann", "g.3")
    found = await push_store.preferences(["ann", "bob"])
    assert {user: dict(one.mutes) for user, one in found.items()} == {"ann": {"g.1": 9}, "bob": {"g.3": 7}}


async def test_a_mute_too_many_changes_nothing_but_one_that_is_there_may_change(push_store: PushStore) -> None:
    done = await asyncio.gather(*(push_store.put_mute("ann", f"g.{n}", 1, 3) for n in range(10)))

    assert sum(done) == 3
    muted = sorted((await push_store.preferences(["ann"]))["ann"].mutes)
    assert len(muted) == 3
    assert await push_store.put_mute("ann", muted[0], 2, 3)
    assert await push_store.put_mute("bob", "g.1", 1, 3)


async def test_many_users_are_found_at_once(push_store: PushStore) -> None:
    await push_store.put_token(token("user999", "phone"), 1)
    everybody = [f"user{n}" for n in range(1_000)]

    assert list(await push_store.tokens(everybody)) == ["user999"]
    assert len(await push_store.preferences(everybody)) == 1_000


async def test_what_was_written_survives_reopening(push_store_rig: PushStoreRig) -> None:
    store = await push_store_rig.open()
    await store.put_token(token("ann", "phone"), 1)
    await store.put_settings(QUIET)
    await store.put_mute("ann", "g.1", 5, 1)

    store = await push_store_rig.reopen(store)

    assert await store.tokens(["ann"]) == {"ann": [token("ann", "phone")]}
    assert (await store.preferences(["ann"]))["ann"] == PushPreferences(QUIET, {"g.1": 5})


def test_a_token_is_not_shown_where_a_row_is() -> None:
    assert "secret" not in repr(token("ann", "phone", "secret"))


LATER_CALLS: dict[str, Callable[[PushStore], Awaitable[object]]] = {
    "put_token": lambda store: store.put_token(token("ann", "phone"), 1),
    "tokens": lambda store: store.tokens(["ann"]),
    "remove_token": lambda store: store.remove_token("ann", "phone"),
    "preferences": lambda store: store.preferences(["ann"]),
    "put_settings": lambda store: store.put_settings(QUIET),
    "put_mute": lambda store: store.put_mute("ann", "g.1", 1, 1),
    "remove_mute": lambda store: store.remove_mute("ann", "g.1"),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_store_is_unavailable(
    push_store: PushStore, call: Callable[[PushStore], Awaitable[object]]
) -> None:
    await push_store.close()
    await push_store.close()

    with pytest.raises(Unavailable) as caught:
        await call(push_store)

    assert caught.value.reason == "ENGINE_DOWN"
