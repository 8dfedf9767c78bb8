"""What every privacy store promises."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from discovery.errors import Aborted, Unavailable
from services.ports.privacy_store import Audience, GrantRow, Precision, PrivacyRow, PrivacyStore
from tests.conformance.conftest import PrivacyStoreRig

CLOSED = PrivacyRow("ann", Audience.NOBODY, Audience.EVERYONE, True, Precision.CITY)


def grant(owner: str, viewer: str, precision: Precision = Precision.CITY, expires_ms: int = 0) -> GrantRow:
    return GrantRow(owner, viewer, precision, expires_ms)


async def version_of(store: PrivacyStore, user_id: str) -> int:
    return (await store.privacy([user_id]))[user_id].version


async def test_who_never_chose_has_the_defaults_at_version_zero(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_privacy(CLOSED)

    assert await privacy_store.privacy(["bob", "eve"]) == {"bob": PrivacyRow("bob"), "eve": PrivacyRow("eve")}
    assert await privacy_store.privacy([]) == {}


async def test_a_row_is_found_as_it_was_put_whatever_version_it_was_put_with(privacy_store: PrivacyStore) -> None:
    version = await privacy_store.put_privacy(
        PrivacyRow("ann", Audience.NOBODY, Audience.EVERYONE, True, Precision.CITY, version=77)
    )

    assert version == 1
    assert await privacy_store.privacy(["ann"]) == {
        "ann": PrivacyRow("ann", Audience.NOBODY, Audience.EVERYONE, True, Precision.CITY, version=1)
    }


async def test_each_change_raises_the_version_by_one_and_the_same_row_twice_is_the_same_row(
    privacy_store: PrivacyStore,
) -> None:
    versions = [
        await privacy_store.put_privacy(CLOSED),
        await privacy_store.put_grant(grant("ann", "bob"), 10),
        await privacy_store.put_privacy(CLOSED),
        await privacy_store.put_grant(grant("ann", "bob"), 10),
        await privacy_store.remove_grant("ann", "bob"),
        await privacy_store.put_privacy(PrivacyRow("ann")),
    ]

    assert versions == [1, 2, 3, 4, 5, 6]
    assert await privacy_store.privacy(["ann"]) == {"ann": PrivacyRow("ann", version=6)}
    assert await version_of(privacy_store, "bob") == 0


async def test_a_put_on_another_version_than_was_read_changes_nothing(privacy_store: PrivacyStore) -> None:
    assert await privacy_store.put_privacy(PrivacyRow("ann"), 0) == 1
    await privacy_store.put_grant(grant("ann", "bob"), 10)

    with pytest.raises(Aborted):
        await privacy_store.put_privacy(CLOSED, 1)

    assert await privacy_store.privacy(["ann"]) == {"ann": PrivacyRow("ann", version=2)}
    assert await privacy_store.put_privacy(CLOSED, 2) == 3


async def test_of_puts_on_one_version_at_once_one_is_done(privacy_store: PrivacyStore) -> None:
    puts = [privacy_store.put_privacy(CLOSED, 0) for _ in range(10)]

    outcomes = await asyncio.gather(*puts, return_exceptions=True)

    assert sum(outcome == 1 for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 9


async def test_puts_at_once_are_counted_one_after_the_other(privacy_store: PrivacyStore) -> None:
    puts = [privacy_store.put_privacy(CLOSED) for _ in range(15)]
    grants = [privacy_store.put_grant(grant("ann", f"viewer{n}"), 100) for n in range(15)]

    versions = await asyncio.gather(*puts, *grants)

    assert sorted(version or 0 for version in versions) == list(range(1, 31))
    assert await version_of(privacy_store, "ann") == 30
    assert len(await privacy_store.grants_by("ann", "", 100)) == 15


async def test_a_grant_is_replaced_and_leaves_the_row_as_it_was(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_privacy(CLOSED)
    await privacy_store.put_grant(grant("ann", "bob", Precision.HIDDEN, 5), 10)

    await privacy_store.put_grant(grant("ann", "bob", Precision.EXACT, 9), 10)

    assert await privacy_store.grants_for("bob", ["ann"]) == {"ann": grant("ann", "bob", Precision.EXACT, 9)}
    row = (await privacy_store.privacy(["ann"]))["ann"]
    assert (row.presence, row.last_seen, row.shares_location) == (Audience.NOBODY, Audience.EVERYONE, True)


async def test_a_grant_too_many_changes_nothing_but_one_that_is_there_may_change(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_grant(grant("ann", "bob"), 2)
    await privacy_store.put_grant(grant("ann", "eve"), 2)

    assert await privacy_store.put_grant(grant("ann", "zoe"), 2) is None

    assert [row.viewer_id for row in await privacy_store.grants_by("ann", "", 10)] == ["bob", "eve"]
    assert await version_of(privacy_store, "ann") == 2
    assert await privacy_store.put_grant(grant("ann", "eve", Precision.EXACT), 2) == 3
    assert await privacy_store.put_grant(grant("bob", "zoe"), 2) == 1


async def test_grants_made_at_once_stay_within_the_most(privacy_store: PrivacyStore) -> None:
    versions = await asyncio.gather(*(privacy_store.put_grant(grant("ann", f"viewer{n}"), 5) for n in range(20)))

    assert sorted(version for version in versions if version) == [1, 2, 3, 4, 5]
    assert len(await privacy_store.grants_by("ann", "", 100)) == 5


async def test_removing_what_is_not_there_changes_nothing(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_grant(grant("ann", "bob"), 10)

    assert await privacy_store.remove_grant("ann", "eve") is None
    assert await privacy_store.remove_grant("bob", "ann") is None
    assert await version_of(privacy_store, "ann") == 1
    assert await privacy_store.remove_grant("ann", "bob") == 2
    assert await privacy_store.remove_grant("ann", "bob") is None
    assert await privacy_store.grants_by("ann", "", 10) == []


async def test_a_viewer_finds_the_own_grants_of_the_owners_asked_for(privacy_store: PrivacyStore) -> None:
    for made in (grant("ann", "eve"), grant("bob", "eve", expires_ms=7), grant("zoe", "eve"), grant("ann", "bob")):
        await privacy_store.put_grant(made, 10)

    found = await privacy_store.grants_for("eve", ["ann", "bob", "nobody"])

    assert found == {"ann": grant("ann", "eve"), "bob": grant("bob", "eve", expires_ms=7)}
    assert await privacy_store.grants_for("eve", []) == {}


async def test_many_users_are_found_at_once(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_privacy(PrivacyRow("user999", Audience.EVERYONE))
    await privacy_store.put_grant(grant("user0", "eve"), 1)
    everybody = [f"user{n}" for n in range(1_000)]

    rows = await privacy_store.privacy(everybody)

    assert len(rows) == 1_000
    assert rows["user999"].presence is Audience.EVERYONE
    assert list(await privacy_store.grants_for("eve", everybody)) == ["user0"]


async def test_an_owners_grants_are_paged_by_viewer_in_order_of_code_points(privacy_store: PrivacyStore) -> None:
    viewers = ["a", "_a", "Z", "b", "ä", "B", "-", "a.b", "aB"]
    for viewer in viewers:
        await privacy_store.put_grant(grant("ann", viewer), 100)
    await privacy_store.put_grant(grant("bob", "c"), 100)

    pages: list[str] = []
    while page := await privacy_store.grants_by("ann", pages[-1] if pages else "", 2):
        pages += [row.viewer_id for row in page]

    assert pages == sorted(viewers)
    assert await privacy_store.grants_by("ann", "", 0) == []


async def test_a_forgotten_user_leaves_no_row_and_no_grant_in_either_direction(privacy_store: PrivacyStore) -> None:
    await privacy_store.put_privacy(CLOSED)
    await privacy_store.put_grant(grant("ann", "bob"), 10)
    await privacy_store.put_grant(grant("bob", "ann"), 10)
    await privacy_store.put_grant(grant("bob", "eve"), 10)

    await privacy_store.forget("ann")
    await privacy_store.forget("ann")

    assert await privacy_store.privacy(["ann"]) == {"ann": PrivacyRow("ann")}
    assert await privacy_store.grants_by("ann", "", 10) == []
    assert await privacy_store.grants_by("bob", "", 10) == [grant("bob", "eve")]
    assert await version_of(privacy_store, "bob") == 3  # a grant of bob's has changed


async def test_users_who_granted_each_other_are_forgotten_at_once(privacy_store: PrivacyStore) -> None:
    users = [f"user{n}" for n in range(6)]
    for owner in users:
        for viewer in users:
            await privacy_store.put_grant(grant(owner, viewer), 10)

    await asyncio.gather(*(privacy_store.forget(user) for user in users))

    assert [await privacy_store.grants_by(user, "", 10) for user in users] == [[]] * 6


async def test_what_was_written_survives_reopening(privacy_store_rig: PrivacyStoreRig) -> None:
    store = await privacy_store_rig.open()
    await store.put_privacy(CLOSED)
    await store.put_grant(grant("ann", "bob"), 10)

    store = await privacy_store_rig.reopen(store)

    assert await version_of(store, "ann") == 2
    assert await store.grants_by("ann", "", 10) == [grant("ann", "bob")]


LATER_CALLS: dict[str, Callable[[PrivacyStore], Awaitable[object]]] = {
    "privacy": lambda store: store.privacy(["ann"]),
    "put_privacy": lambda store: store.put_privacy(PrivacyRow("ann")),
    "put_grant": lambda store: store.put_grant(grant("ann", "bob"), 1),
    "remove_grant": lambda store: store.remove_grant("ann", "bob"),
    "grants_for": lambda store: store.grants_for("ann", ["bob"]),
    "grants_by": lambda store: store.grants_by("ann", "", 1),
    "forget": lambda store: store.forget("ann"),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_store_is_unavailable(
    privacy_store: PrivacyStore, call: Callable[[PrivacyStore], Awaitable[object]]
) -> None:
    await privacy_store.close()
    await privacy_store.close()

    with pytest.raises(Unavailable) as caught:
        await call(privacy_store)

    assert caught.value.reason == "ENGINE_DOWN"
