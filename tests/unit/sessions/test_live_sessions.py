"""Live-location sessions: what starting, renewing, stopping, running out and leaving the conversation come to."""

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from discovery.errors import HitherError, PermissionDenied, Unavailable
from discovery.ids import direct_conversation_id
from discovery.rpc.call import Call, Caller, Role, serve_call
from hither.location.v1.location_pb2 import EndReason
from hither.sessions.v1 import sessions_service_pb2 as pb
from services.ports.live_session_store import Ending, LiveSessionRow
from services.sessions.live_keeper import LiveKeeper
from services.sessions.live_lease import MEDIA_TYPE
from services.sessions.service import Sessions
from services.sessions.settings import SessionsSettings
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.sqlite.devices import SqliteDeviceStore
from tests.support.clock import ManualClock
from tests.support.live import FakeDirectory, FakeLocation, FakeMessaging, MemoryLiveSessions
from tests.support.mesh import FakeMesh

HOUR_S = 3600


class World:
    """What outlives processes, and the services around them."""

    def __init__(self, devices: SqliteDeviceStore) -> None:
        self.clock = ManualClock()
        self.store = MemoryLiveSessions()
        self.bus = MemoryBus()
        self.devices = devices
        self.directory = FakeDirectory()
        self.messaging = FakeMessaging()
        self.location = FakeLocation()
        self.directory.members["g.1"] = ["ann", "ben"]

    def said(self) -> list[dict[str, Any]]:
        """What was said in conversations, in order."""
        return [json.loads(posted.content.data) for posted in self.messaging.posted.values()]

    def ended(self) -> list[str]:
        """Whose end `location` was told, with the reason."""
        return [f"{one.session_id} {EndReason.Name(one.reason)[len('END_REASON_') :]}" for one in self.location.ended]


class Desk:
    """One process of the sessions service; calls come from users."""

    def __init__(self, world: World, settings: SessionsSettings | None = None) -> None:
        self.world = world
        self.mesh = FakeMesh()
        for servicer in (world.directory, world.messaging, world.location):
            self.mesh.serve(servicer)
        settings = settings or SessionsSettings()
        cache = MemoryCache(world.clock)
        self.sessions = Sessions(self.mesh.mesh, cache, world.devices, world.store, world.bus, world.clock, settings)
        self.servicer = self.sessions.servicer
        self.keeper.follow(frozenset(range(self.mesh.partitions)))

    @property
    def keeper(self) -> LiveKeeper:
        return self.sessions._keeper

    async def start(
        self, user_id: str = "ann", duration_s: int = HOUR_S, request_id: str = "", opaque: bool = False
    ) -> pb.StartLiveLocationResponse:
        _as(user_id)
        request = pb.StartLiveLocationRequest(
            conversation_id="g.1", duration_s=duration_s, request_id=request_id, opaque=opaque
        )
        return await self.servicer.StartLiveLocation(request, None)

    async def renew(self, session_id: str, duration_s: int, user_id: str = "ann") -> pb.RenewLiveLocationResponse:
        _as(user_id)
        request = pb.RenewLiveLocationRequest(session_id=session_id, duration_s=duration_s)
        return await self.servicer.RenewLiveLocation(request, None)

    async def stop(self, session_id: str, user_id: str = "ann") -> None:
        _as(user_id)
        await self.servicer.StopLiveLocation(pb.StopLiveLocationRequest(session_id=session_id), None)

    async def active(self) -> list[str]:
        response = await self.servicer.GetLiveLocations(pb.GetLiveLocationsRequest(conversation_id="g.1"), None)
        return [one.session_id for one in response.live_locations]

    async def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
        self.world.clock.advance(seconds)
        await self.keeper.step()


def _as(user_id: str) -> None:
    serve_call(Call("/test", Caller(Role.USER, user_id, "phone"), float("inf"), ""))


async def reason(call: Awaitable[object]) -> str:
    with pytest.raises(HitherError) as refused:
        await call
    return refused.value.reason


@pytest.fixture
def world(store: SqliteDeviceStore) -> World:
    return World(store)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


async def test_a_start_is_on_record_and_said_in_the_conversation_in_the_sharers_name(desk: Desk) -> None:
    started = await desk.start(opaque=True)

    assert started.session_id.startswith("g.1~")
    assert started.expires_at.ToMilliseconds() == desk.world.clock.now_ms() + HOUR_S * 1000
    assert await desk.active() == [started.session_id]
    [(conversation_id, sender_id, _)] = desk.world.messaging.posted
    assert (conversation_id, sender_id) == ("g.1", "ann")
    [posted] = desk.world.messaging.posted.values()
    assert posted.content.media_type == MEDIA_TYPE
    assert desk.world.said() == [
        {
            "event": "started",
            "session_id": started.session_id,
            "expires_at_ms": started.expires_at.ToMilliseconds(),
            "opaque": True,
        }
    ]


async def test_the_conversation_and_the_session_have_the_same_owner(desk: Desk) -> None:
    started = await desk.start()

    assert desk.mesh.partition_of(started.session_id) == desk.mesh.partition_of("g.1")


async def test_who_is_no_member_cannot_start(desk: Desk) -> None:
    assert await reason(desk.start("eve")) == "NOT_A_MEMBER"

    assert desk.world.store.rows == {}
    assert desk.world.said() == []


async def test_a_start_that_is_repeated_gets_the_first_answer_and_says_nothing_twice(desk: Desk) -> None:
    first = await desk.start(request_id="r1")
    desk.world.clock.advance(5)

    assert await desk.start(request_id="r1") == first
    assert await desk.active() == [first.session_id]
    await desk.stop(first.session_id)
    assert await desk.start(request_id="r1") == first

    assert [said["event"] for said in desk.world.said()] == ["started", "ended"]
    assert await desk.active() == []


async def test_the_same_request_of_another_user_is_another_start(desk: Desk) -> None:
    anns, bens = await desk.start("ann", request_id="r1"), await desk.start("ben", request_id="r1")

    assert sorted(await desk.active()) == sorted([anns.session_id, bens.session_id])


async def test_starting_again_ends_what_the_user_shared_there_before(desk: Desk) -> None:
    first = await desk.start()
    second = await desk.start()
    await desk.keeper.step()

    assert await desk.active() == [second.session_id]
    assert desk.world.ended() == [f"{first.session_id} STOPPED"]


async def test_of_starts_at_once_one_stays(desk: Desk) -> None:
    await asyncio.gather(*(desk.start() for _ in range(5)))

    assert len(await desk.active()) == 1


async def test_stopping_tells_viewers_and_the_conversation_once(desk: Desk) -> None:
    started = await desk.start()

    await desk.stop(started.session_id)
    await desk.stop(started.session_id)
    await desk.wait(HOUR_S)

    assert desk.world.ended() == [f"{started.session_id} STOPPED"]
    assert desk.world.said()[1:] == [{"event": "ended", "session_id": started.session_id, "reason": "STOPPED"}]
    assert len(desk.keeper) == 0


async def test_only_the_sharer_stops_and_renews(desk: Desk) -> None:
    started = await desk.start()

    assert await reason(desk.stop(started.session_id, "ben")) == "NOT_YOURSELF"
    assert await reason(desk.renew(started.session_id, 60, "ben")) == "NOT_YOURSELF"

    assert await desk.active() == [started.session_id]


async def test_stopping_what_never_was_does_nothing(desk: Desk) -> None:
    await desk.stop("g.1~nothing")

    assert desk.world.ended() == []


async def test_a_session_ends_when_its_time_is_over(desk: Desk) -> None:
    started = await desk.start(duration_s=900)

    await desk.wait(899.9)
    assert desk.world.ended() == []
    await desk.wait(0.1)

    assert desk.world.ended() == [f"{started.session_id} EXPIRED"]
    assert desk.world.said()[1:] == [{"event": "ended", "session_id": started.session_id, "reason": "EXPIRED"}]


async def test_a_session_does_not_go_on_past_its_time_even_if_nobody_has_ended_it(desk: Desk) -> None:
    started = await desk.start(duration_s=900)
    desk.world.clock.advance(900)

    assert await desk.active() == []
    assert await reason(desk.renew(started.session_id, 900)) == "LIVE_LOCATION_ENDED"


async def test_a_renewed_session_ends_later_and_never_earlier(desk: Desk) -> None:
    started = await desk.start(duration_s=900)
    desk.world.clock.advance(600)

    longer = await desk.renew(started.session_id, 900)
    same = await desk.renew(started.session_id, 1)
    await desk.wait(300)
    assert await desk.active() == [started.session_id]
    await desk.wait(600)

    assert longer.expires_at.ToMilliseconds() == started.expires_at.ToMilliseconds() + 600_000
    assert same == longer
    assert desk.world.ended() == [f"{started.session_id} EXPIRED"]


async def test_what_has_ended_or_never_was_cannot_be_renewed(desk: Desk) -> None:
    started = await desk.start()
    await desk.stop(started.session_id)

    assert await reason(desk.renew(started.session_id, 60)) == "LIVE_LOCATION_ENDED"
    assert await reason(desk.renew("g.1~nothing", 60)) == "LIVE_LOCATION_ENDED"


async def test_a_sharer_who_is_removed_stops_sharing_as_soon_as_it_is_known(desk: Desk) -> None:
    started = await desk.start()
    await desk.start("ben")
    desk.world.directory.members["g.1"].remove("ann")

    desk.keeper.changed("directory.changes", b"conversation g.1")
    await desk.keeper.step()

    assert desk.world.ended() == [f"{started.session_id} REMOVED"]
    assert [said["event"] for said in desk.world.said()] == ["started", "started"]


async def test_news_that_come_while_the_members_are_asked_for_are_looked_into(desk: Desk) -> None:
    started = await desk.start()
    resolve = desk.world.directory.ResolveConversation

    async def remove_meanwhile(request: Any, context: object) -> Any:
        desk.world.directory.ResolveConversation = resolve  # type: ignore[method-assign]
        answer = await resolve(request, context)
        desk.world.directory.members["g.1"].remove("ann")
        desk.keeper.changed("directory.changes", b"conversation g.1")
        return answer

    desk.world.directory.ResolveConversation = remove_meanwhile  # type: ignore[method-assign] # once
    await desk.wait(60)
    await desk.keeper.step()

    assert desk.world.ended() == [f"{started.session_id} REMOVED"]


async def test_a_renewal_beside_the_expiry_wins(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    replace_row = desk.world.store.replace

    async def renew_first(before: LiveSessionRow, after: LiveSessionRow) -> bool:
        desk.world.store.replace = replace_row  # type: ignore[method-assign]
        await replace_row(before, replace(before, expires_ms=before.expires_ms + 60_000))
        return await replace_row(before, after)

    desk.world.store.replace = renew_first  # type: ignore[method-assign] # once
    await desk.wait(60)

    assert (await desk.active(), desk.world.ended()) == ([started.session_id], [])


async def test_the_first_ending_stays(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    desk.world.location.fails = Unavailable()
    await desk.wait(60)
    await desk.stop(started.session_id)
    desk.world.location.fails = None
    await desk.wait(2)

    assert desk.world.ended() == [f"{started.session_id} EXPIRED"]


async def test_after_a_gap_in_the_news_all_sharers_are_looked_at_soon(desk: Desk) -> None:
    started = await desk.start()
    await desk.wait(20)
    desk.world.directory.members["g.1"].remove("ann")

    desk.keeper.gap("directory.changes")
    await desk.wait(15)

    assert desk.world.ended() == [f"{started.session_id} REMOVED"]


async def test_a_removal_of_which_no_news_came_is_noticed_all_the_same(desk: Desk) -> None:
    started = await desk.start()
    desk.world.directory.members["g.1"].remove("ann")

    await desk.wait(60)
    await desk.wait(60)

    assert desk.world.ended() == [f"{started.session_id} REMOVED"]


async def test_a_directory_that_is_away_ends_nothing(desk: Desk) -> None:
    started = await desk.start()
    desk.world.directory.fails = Unavailable()

    await desk.wait(60)
    await desk.wait(60)

    assert await desk.active() == [started.session_id]


async def test_a_block_ends_what_is_shared_between_the_two(desk: Desk) -> None:
    _as("ann")
    request = pb.StartLiveLocationRequest(
        conversation_id=(direct := direct_conversation_id("ann", "ben")), duration_s=60
    )
    desk.world.directory.members[direct] = ["ann", "ben"]
    started = await desk.servicer.StartLiveLocation(request, None)
    desk.world.directory.members[direct] = []

    desk.keeper.changed("directory.changes", b"friends ben ann")
    await desk.keeper.step()

    assert desk.world.ended() == [f"{started.session_id} REMOVED"]


async def test_while_messaging_is_away_a_session_starts_and_is_said_later(desk: Desk) -> None:
    desk.world.messaging.fails = Unavailable()
    started = await desk.start()
    assert await desk.active() == [started.session_id]

    desk.world.messaging.fails = None
    await desk.wait(1)

    assert [said["event"] for said in desk.world.said()] == ["started"]


async def test_a_conversation_that_refuses_the_message_refuses_the_session(desk: Desk) -> None:
    desk.world.messaging.fails = PermissionDenied(reason="BLOCKED")

    assert await reason(desk.start()) == "BLOCKED"

    await desk.keeper.step()
    assert await desk.active() == []
    assert len(desk.keeper) == 0


async def test_the_end_is_told_again_until_everybody_knows(desk: Desk) -> None:
    started = await desk.start()
    desk.world.location.fails = Unavailable()
    await desk.stop(started.session_id)
    assert [said["event"] for said in desk.world.said()] == ["started", "ended"]

    desk.world.location.fails = None
    await desk.wait(2)

    assert desk.world.ended() == [f"{started.session_id} STOPPED"]
    assert [said["event"] for said in desk.world.said()] == ["started", "ended"]
    assert len(desk.keeper) == 0


async def test_a_store_that_is_away_refuses_starts_and_is_asked_again(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    desk.world.store.fails = Unavailable()
    assert await reason(desk.start("ben")) == "ENGINE_DOWN"
    await desk.wait(60)

    desk.world.store.fails = None
    await desk.wait(2)

    assert desk.world.ended() == [f"{started.session_id} EXPIRED"]


async def test_a_session_outlives_its_process(desk: Desk, world: World) -> None:
    goes_on = await desk.start(duration_s=HOUR_S)
    runs_out = await desk.start("ben", duration_s=60)
    world.location.fails = Unavailable()
    world.clock.advance(120)
    world.location.fails = None

    successor = Desk(world)
    await successor.keeper.step()
    assert await successor.active() == [goes_on.session_id]
    await successor.wait(0)
    await successor.wait(HOUR_S)

    assert world.ended() == [f"{runs_out.session_id} EXPIRED", f"{goes_on.session_id} EXPIRED"]


async def test_a_start_that_was_cut_short_is_finished_by_the_successor(desk: Desk, world: World) -> None:
    world.messaging.fails = Unavailable()
    await desk.start()
    world.messaging.fails = None

    successor = Desk(world)
    await successor.keeper.step()

    assert [said["event"] for said in world.said()] == ["started"]


async def test_of_two_owners_at_once_one_decides(desk: Desk, world: World) -> None:
    other = Desk(world)
    started = await desk.start(duration_s=60)
    other.keeper.schedule(started.session_id, started.expires_at.ToMilliseconds())

    world.clock.advance(60)
    await asyncio.gather(desk.keeper.step(), other.keeper.step())

    assert {row.ending for row in world.store.rows.values()} == {Ending.EXPIRED}
    assert [said["event"] for said in world.said()] == ["started", "ended"]


async def test_a_process_watches_only_over_what_it_owns(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    desk.keeper.follow(frozenset(range(16)) - {desk.mesh.partition_of("g.1")})

    await desk.wait(60)
    assert (len(desk.keeper), desk.world.ended()) == (0, [])

    desk.keeper.follow(frozenset(range(16)))
    await desk.keeper.step()
    assert desk.world.ended() == [f"{started.session_id} EXPIRED"]


async def test_more_sessions_than_a_process_may_watch_over_are_refused(world: World) -> None:
    desk = Desk(world, SessionsSettings(most_live_sessions=1))
    await desk.start()

    assert await reason(desk.start("ben")) == "OVERLOADED"


async def test_what_has_ended_is_purged_after_a_day(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    await desk.stop(started.session_id)

    await desk.wait(24 * HOUR_S)
    assert started.session_id in desk.world.store.rows
    await desk.wait(2 * HOUR_S)

    assert desk.world.store.rows == {}


async def test_void_entries_do_not_pile_up(desk: Desk) -> None:
    started = await desk.start(duration_s=60)
    for _ in range(5_000):
        desk.keeper.schedule(started.session_id, started.expires_at.ToMilliseconds())

    await desk.keeper.step()

    assert len(desk.keeper._due) < 1_000


async def test_the_background_work_runs_until_it_is_cancelled(desk: Desk, world: World) -> None:
    running = asyncio.create_task(desk.sessions.run())
    started = await desk.start()
    world.directory.members["g.1"].remove("ann")
    await desk.mesh.heeded.wait()

    await world.bus.publish("directory.changes", b"conversation g.1")
    async with asyncio.timeout(30):
        await world.location.heard.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.ended() == [f"{started.session_id} REMOVED"]
