"""What every store of live-location sessions promises."""

import asyncio
from dataclasses import replace

import pytest

from discovery.errors import Unavailable
from services.ports.live_session_store import Ending, LiveSessionRow, LiveSessionStore
from tests.conformance.conftest import LiveSessionStoreRig


def session(name: str, conversation_id: str = "g.1", partition: int = 3) -> LiveSessionRow:
    return LiveSessionRow(
        session_id=f"{conversation_id}~{name}",
        conversation_id=conversation_id,
        partition=partition,
        user_id="ann",
        opaque=False,
        started_ms=1_000,
        expires_ms=2_000,
        keep_until_ms=9_000,
    )


async def put(store: LiveSessionStore, before: LiveSessionRow, **changes: object) -> LiveSessionRow:
    assert await store.replace(before, replace(before, **changes))  # type: ignore[arg-type] # names of its fields
    found = await store.find(before.session_id)
    assert found is not None
    return found


async def test_a_session_that_was_added_is_found_as_it_was(live_sessions: LiveSessionStore) -> None:
    opaque = replace(session("a"), opaque=True)

    assert await live_sessions.add(opaque) == opaque

    assert await live_sessions.find("g.1~a") == opaque
    assert await live_sessions.find("g.1~b") is None


async def test_adding_again_answers_what_stands(live_sessions: LiveSessionStore) -> None:
    first = await live_sessions.add(session("a"))
    changed = await put(live_sessions, first, announced=True)

    assert await live_sessions.add(replace(session("a"), expires_ms=7)) == changed


async def test_a_change_counts_only_if_what_it_changes_still_stands(live_sessions: LiveSessionStore) -> None:
    first = await live_sessions.add(session("a"))

    assert await live_sessions.replace(first, replace(first, expires_ms=3_000))
    assert not await live_sessions.replace(first, replace(first, expires_ms=4_000))
    assert not await live_sessions.replace(session("unknown"), session("unknown"))

    assert await live_sessions.find("g.1~a") == replace(first, expires_ms=3_000, version=2)
    assert await live_sessions.find("g.1~unknown") is None


async def test_of_changes_at_once_one_counts(live_sessions: LiveSessionStore) -> None:
    first = await live_sessions.add(session("a"))

    changes = [live_sessions.replace(first, replace(first, expires_ms=3_000 + number)) for number in range(8)]

    assert sorted(await asyncio.gather(*changes)) == [False] * 7 + [True]


async def test_the_active_sessions_of_a_conversation_are_those_without_an_ending(
    live_sessions: LiveSessionStore,
) -> None:
    for name in ("b", "a", "c", "d"):
        await live_sessions.add(session(name))
    await live_sessions.add(session("a", "g.2"))
    ended = await live_sessions.find("g.1~b")
    assert ended is not None
    await put(live_sessions, ended, ending=Ending.STOPPED, ended_ms=1_500)

    assert [row.session_id for row in await live_sessions.active_in("g.1", 10)] == ["g.1~a", "g.1~c", "g.1~d"]
    assert [row.session_id for row in await live_sessions.active_in("g.1", 2)] == ["g.1~a", "g.1~c"]
    assert await live_sessions.active_in("g.3", 10) == []


async def test_the_open_sessions_of_a_partition_come_in_pages_until_they_are_told(
    live_sessions: LiveSessionStore,
) -> None:
    for name in ("b", "a", "c", "d"):
        await live_sessions.add(session(name))
    await live_sessions.add(session("a", "g.2", partition=4))
    ended = await put(live_sessions, session("b"), ending=Ending.EXPIRED, ended_ms=2_000)
    await put(live_sessions, await put(live_sessions, session("c"), ending=Ending.STOPPED), told=True)

    first = await live_sessions.open_in(3, "", 2)

    assert [row.session_id for row in first] == ["g.1~a", "g.1~b"]
    assert first[1] == ended
    assert [row.session_id for row in await live_sessions.open_in(3, "g.1~b", 2)] == ["g.1~d"]
    assert [row.session_id for row in await live_sessions.open_in(4, "", 2)] == ["g.2~a"]


async def test_only_told_sessions_are_purged_when_their_time_has_come(live_sessions: LiveSessionStore) -> None:
    for name, told, keep_until_ms in (("a", True, 10), ("b", True, 11), ("c", True, 12), ("d", False, 10)):
        row = await live_sessions.add(replace(session(name), keep_until_ms=keep_until_ms))
        await put(live_sessions, row, told=told, ending=Ending.STOPPED)

    assert await live_sessions.purge(12, 1) == 1
    assert await live_sessions.purge(12, 10) == 1
    assert await live_sessions.purge(12, 10) == 0

    assert [await live_sessions.find(f"g.1~{name}") is not None for name in "abcd"] == [False, False, True, True]


async def test_sessions_outlive_the_store(live_session_store_rig: LiveSessionStoreRig) -> None:
    store = await live_session_store_rig.open()
    row = await store.add(session("a"))

    store = await live_session_store_rig.reopen(store)

    assert await store.open_in(3, "", 10) == [row]


async def test_a_closed_store_is_unavailable(live_sessions: LiveSessionStore) -> None:
    await live_sessions.close()
    await live_sessions.close()

    with pytest.raises(Unavailable) as refused:
        await live_sessions.find("g.1~a")
    assert refused.value.reason == "ENGINE_DOWN"
