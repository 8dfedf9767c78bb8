"""A machine that sleeps while its clients do not: what it has missed when it wakes up, and how all find each other again."""

import asyncio

import pytest

from hither_client import (
    ClientSettings,
    HitherClient,
    LiveLocationMoved,
    LiveLocations,
    LiveLocationView,
    LivePlace,
    MessageReceived,
)
from tests.scenarios.test_live_location import a_group, seen
from tests.scenarios.test_nearby import CAFE, PARK, two_friends
from tests.scenarios.test_presence import friends, is_listed, says
from tests.support.people import WAIT_S, Person, sign_up, until
from tests.support.times import ALIVE_AS_USUAL, Times

pytestmark = pytest.mark.asyncio(loop_scope="module")


def client_of(times: Times, person: Person) -> HitherClient:
    settings = ClientSettings(first_retry_s=0.1, retry_limit_s=1.0)
    return HitherClient(times.url, person.token, proxy=None, settings=settings)


async def is_shown_at(viewer: HitherClient, lat: float) -> None:
    """Returns when the viewer sees a live location there: as it moves, or when the viewer is back."""
    async with asyncio.timeout(WAIT_S):
        while True:
            match await viewer.next_event():
                case (
                    LiveLocationMoved(lat=seen_lat)
                    | LiveLocations(sessions=(LiveLocationView(latest=LivePlace(lat=seen_lat)),))
                ) if seen_lat == lat:
                    return


async def test_a_nap_of_less_than_a_minute_is_noticed_by_nobody(times: Times) -> None:
    async with times.http as http:
        bob, ann, carol = await friends(http, "bob", "ann", "carol")
        async with times.line(bob) as his, times.line(ann) as hers, times.line(carol) as carols:
            for friend in (ann, carol):
                await his.next("presence", user_id=friend.user_id, status="ONLINE")
            for _ in range(3):
                times.pass_(seconds=40)
                for one in (hers, carols):
                    await says(one, "AWAY")
                    await says(one, "ONLINE")
            await says(carols, "AWAY")
            await his.next("presence", user_id=carol.user_id, status="AWAY")
            await until(is_listed(bob, ann, "ONLINE"))
    assert his.passed_over("presence", status="OFFLINE") == []


async def test_friends_nearby_stay_on_the_map_during_a_nap_and_move_on_it_after(times: Times) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
    async with times.line(alice) as hers, times.line(bob) as his:
        await hers.ask("location_update", **PARK)
        await his.ask("location_update", **CAFE)
        await hers.next("friend_location_update")
        times.pass_(seconds=50)
        await his.ask("location_update", lat=CAFE["lat"] + 0.002, lng=CAFE["lng"])
        await hers.next("friend_location_update", lat=CAFE["lat"] + 0.002)
    assert hers.passed_over("friend_location_gone") == []


async def test_what_is_said_to_who_stays_connected_over_a_sleep_arrives_also_before_the_edge_has_reported(
    times: Times,
) -> None:
    async with times.set_to({"HITHER_SESSIONS_CONNECTION_TTL_S": "65"}), times.http as http:
        alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
        conversation_id = await a_group(alice, [bob])
        async with times.line(bob) as his:
            for number in range(3):
                times.pass_(minutes=2)
                sent = {"client_id": f"c{number}", "text": f"{number}"}
                await alice.post(f"/conversations/{conversation_id}/messages", sent)
                assert await his.texts(1) == [f"{number}"]


async def test_after_hours_of_sleep_clients_come_back_by_themselves_and_all_goes_on(times: Times) -> None:
    async with times.set_to(ALIVE_AS_USUAL):
        async with times.http as http:
            alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
            conversation_id = await a_group(alice, [bob])
        async with client_of(times, alice) as hers, client_of(times, bob) as his:
            shared = await hers.start_live_location(conversation_id, 8 * 3600)
            await his.watch_live_location(conversation_id)
            await shared.update(1.0, 13.4)
            assert (await seen(his, LiveLocationMoved)).lat == 1.0

            times.pass_(hours=2)

            await hers.send(text="good morning", conversation_id=conversation_id)
            while (await seen(his, MessageReceived)).message.text != "good morning":
                pass
            await shared.update(2.0, 13.4)
            await is_shown_at(his, 2.0)
            async with times.http as http:
                bob = Person(bob.user_id, bob.token, http)
                await until(is_listed(bob, alice, "ONLINE"))
