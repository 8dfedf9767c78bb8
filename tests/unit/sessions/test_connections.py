"""Connections: each device has one, the newest."""

import asyncio
from contextlib import suppress

import pytest

from discovery.errors import Aborted, ResourceExhausted, Unavailable
from hither.edge.v1.deliver_pb2 import Eviction
from hither.sessions.v1.sessions_pb2 import Connection
from services.ports.device_store import CursorMove
from tests.unit.sessions.conftest import SessionsDesk, connection

ON_EDGE_1 = connection("edge-1", 7)
ON_EDGE_2 = connection("edge-2", 30)
"""The newer one."""


async def evicted_while_running(desk: SessionsDesk, edge_id: str) -> list[Eviction]:
    """Runs the service until the edge was called."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.sessions.run())
        async with asyncio.timeout(30):
            await desk.mesh.edges[edge_id].came.wait()
        running.cancel()
    return desk.mesh.edges[edge_id].evictions()


async def test_a_registered_connection_is_found(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)

    assert await desk.lookup("ann") == [ON_EDGE_1]


async def test_connections_of_several_users_and_devices_are_found_at_once(desk: SessionsDesk) -> None:
    laptop = connection("edge-1", 8, "laptop")
    of_bob = connection("edge-2", 1, user_id="bob")
    for one in (ON_EDGE_1, laptop, of_bob):
        await desk.register(one)

    found = await desk.lookup("ann", "nobody", "bob")

    assert sorted(one.connection_id for one in found) == [1, 7, 8]


async def test_a_new_device_begins_at_zero_and_a_known_one_at_its_cursor(desk: SessionsDesk) -> None:
    assert await desk.register(ON_EDGE_1) == 0

    await desk.devices.advance([CursorMove("ann", "phone", 41)])

    assert await desk.register(ON_EDGE_2) == 41


async def test_a_device_that_connects_elsewhere_replaces_its_connection(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)

    await desk.register(ON_EDGE_2)

    assert await desk.lookup("ann") == [ON_EDGE_2]
    assert await evicted_while_running(desk, "edge-1") == [
        Eviction(connection_id=7, close_code=4101, reason="replaced")
    ]
    assert desk.mesh.edges["edge-2"].evictions() == []


async def test_a_device_that_connects_again_to_its_edge_replaces_its_connection(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)

    await desk.register(connection("edge-1", 8))

    evictions = await evicted_while_running(desk, "edge-1")
    assert [eviction.connection_id for eviction in evictions] == [7]


async def test_a_registration_that_comes_late_takes_nothing_from_the_newer_connection(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_2)

    with pytest.raises(Aborted) as refused:
        await desk.register(ON_EDGE_1)

    assert refused.value.reason == "CONFLICT"
    assert await desk.lookup("ann") == [ON_EDGE_2]


async def test_a_renewal_takes_the_device_from_an_older_connection_whose_edge_was_killed(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)

    assert await desk.renew(ON_EDGE_2) == []

    assert await desk.lookup("ann") == [ON_EDGE_2]
    assert await evicted_while_running(desk, "edge-1") == [
        Eviction(connection_id=7, close_code=4101, reason="replaced")
    ]


async def test_the_same_connection_registered_twice_changes_nothing(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.register(ON_EDGE_1)
    await desk.register(connection("edge-9", 1, "laptop"))
    await desk.register(connection("edge-3", 1, "laptop"))

    await evicted_while_running(desk, "edge-9")

    assert desk.mesh.edges["edge-1"].evictions() == []
    assert ON_EDGE_1 in await desk.lookup("ann")


async def test_an_eviction_that_fails_fails_nothing_else(desk: SessionsDesk) -> None:
    desk.mesh.edges["edge-1"].is_down = True
    await desk.register(ON_EDGE_1)
    await desk.register(ON_EDGE_2)
    await desk.register(connection("edge-3", 50))

    await evicted_while_running(desk, "edge-1")
    evictions = await evicted_while_running(desk, "edge-2")

    assert [eviction.connection_id for eviction in evictions] == [30]


async def test_an_edge_that_hangs_holds_up_neither_registration_nor_other_evictions(desk: SessionsDesk) -> None:
    desk.mesh.edges["edge-1"].hangs = True
    await desk.register(ON_EDGE_1)
    await desk.register(ON_EDGE_2)
    await desk.register(connection("edge-3", 50))

    assert len(await evicted_while_running(desk, "edge-2")) == 1


async def test_one_device_too_many_is_refused_and_changes_nothing(desk: SessionsDesk) -> None:
    for number in range(3):
        await desk.register(connection("edge-1", number + 1, f"device-{number}"))

    with pytest.raises(ResourceExhausted) as refused:
        await desk.register(connection("edge-1", 9, "one-more"))

    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert len(await desk.lookup("ann")) == 3


async def test_a_connection_that_is_not_renewed_runs_out_after_65_seconds(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    desk.clock.advance(64.9)
    assert await desk.lookup("ann") == [ON_EDGE_1]

    desk.clock.advance(0.2)

    assert await desk.lookup("ann") == []


async def test_a_renewed_connection_lives_on(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    desk.clock.advance(60)

    assert await desk.renew(ON_EDGE_1) == []

    desk.clock.advance(60)
    assert await desk.lookup("ann") == [ON_EDGE_1]


async def test_a_lost_record_is_made_anew_by_a_renewal(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.cache.delete(["connections:ann"])

    assert await desk.renew(ON_EDGE_1) == []

    assert await desk.lookup("ann") == [ON_EDGE_1]


async def test_renewing_a_replaced_connection_says_so_and_leaves_the_newer_one(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.register(ON_EDGE_2)

    assert await desk.renew(ON_EDGE_1) == [7]

    assert await desk.lookup("ann") == [ON_EDGE_2]


async def test_connection_numbers_of_different_edges_are_not_confused(desk: SessionsDesk) -> None:
    await desk.register(connection("edge-1", 7))
    await desk.register(connection("edge-2", 7))

    assert await desk.renew(connection("edge-1", 7)) == [7]


async def test_one_renewal_speaks_for_many_users(desk: SessionsDesk) -> None:
    many = [connection("edge-1", number, user_id=f"user-{number}") for number in range(1, 101)]
    for one in many:
        await desk.register(one)
    await desk.register(connection("edge-2", 1_000, user_id="user-50"))
    desk.clock.advance(60)

    assert await desk.renew(*many) == [50]

    desk.clock.advance(60)
    assert len(await desk.lookup(*(one.user_id for one in many))) == 99


async def test_renewing_a_connection_of_a_removed_device_says_so_and_brings_nothing_back(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.remove_device("phone")

    assert await desk.renew(ON_EDGE_1) == [7]

    assert await desk.lookup("ann") == []
    assert list((await desk.list_devices()).devices) == []


async def test_a_removed_connection_is_not_found(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)

    await desk.remove(ON_EDGE_1)

    assert await desk.lookup("ann") == []


async def test_the_late_removal_of_an_old_connection_leaves_the_newer_one(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.register(ON_EDGE_2)

    await desk.remove(ON_EDGE_1)

    assert await desk.lookup("ann") == [ON_EDGE_2]


async def test_the_late_removal_of_a_connection_brings_no_removed_device_back(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.remove_device("phone")

    await desk.remove(ON_EDGE_1)

    assert list((await desk.list_devices()).devices) == []


class SlowReads:
    """Lets a registration in between a renewal's look and its writing, if it would come in."""

    def __init__(self, desk: SessionsDesk, newer: Connection) -> None:
        self._fields = desk.cache.fields
        self._desk = desk
        self._newer = newer
        self.registering: asyncio.Task[int] | None = None

    async def fields(self, keys: list[str]) -> object:
        found = await self._fields(keys)
        if self.registering is None:
            self.registering = asyncio.create_task(self._desk.register(self._newer))
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.registering), 0.05)
        return found


async def test_a_renewal_never_overwrites_a_connection_that_comes_meanwhile(
    desk: SessionsDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.register(ON_EDGE_1)
    slow = SlowReads(desk, ON_EDGE_2)
    monkeypatch.setattr(desk.cache, "fields", slow.fields)

    await desk.renew(ON_EDGE_1)
    assert slow.registering is not None
    await slow.registering

    assert await desk.lookup("ann") == [ON_EDGE_2]


async def test_an_engine_that_is_away_is_told_as_such_also_from_a_batch(desk: SessionsDesk) -> None:
    await desk.devices.close()

    with pytest.raises(Unavailable) as down:
        await desk.renew(ON_EDGE_1, connection("edge-1", 8, user_id="bob"))

    assert down.value.reason == "ENGINE_DOWN"


async def test_a_look_up_is_one_call_of_the_cache(desk: SessionsDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fields = desk.cache.fields

    async def counted(keys: list[str]) -> object:
        calls.append(len(keys))
        return await fields(keys)

    monkeypatch.setattr(desk.cache, "fields", counted)

    await desk.lookup(*(f"user-{number}" for number in range(1000)))

    assert calls == [1000]
