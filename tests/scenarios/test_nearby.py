"""Friends who are near each other: the stories of places."""

import httpx
import pytest

from hither_client import FriendLocationGone, FriendLocationUpdate, HitherClient, Place, RestClient
from tests.support.people import Frame, Person, befriend, line, sign_up, until
from tests.support.runner import Hither

PARK = {"lat": 52.5145, "lng": 13.3501}
CAFE = {"lat": 52.5200, "lng": 13.3600}
"""0.57 miles from the PARK."""
SEA = {"lat": 54.3233, "lng": 10.1394}
"""More than 100 miles from both."""


async def share(person: Person, enabled: bool = True, **more: str) -> None:
    answer = await person.request("PUT", "/settings/location-sharing", {"enabled": enabled, **more})
    assert answer.status_code == 200, answer.text


async def grant(person: Person, friend: Person, precision: str, **more: int) -> Frame:
    body = {"friend_id": friend.user_id, "precision": precision, **more}
    answer = await person.request("PUT", "/location-grants", body)
    assert answer.status_code == 200, answer.text
    found: Frame = answer.json()["grant"]
    return found


async def two_friends(http: httpx.AsyncClient) -> tuple[Person, Person]:
    """Who share with each other."""
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    await befriend(alice, bob)
    await share(alice)
    await share(bob)
    return alice, bob


async def test_friends_nearby_see_each_other_come_and_go(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        answer = await hers.ask("location_update", **PARK)
        assert (answer["type"], answer["shared"]) == ("ok", True)
        assert (answer["next_update_s"], answer["min_move_m"]) == (30, 50)
        await his.ask("location_update", **CAFE)
        event = await hers.next("friend_location_update")
        assert (await his.next("friend_location_update"))["friend_id"] == alice.user_id
        assert (event["friend_id"], event["name"], event["lat"], event["lng"]) == (
            bob.user_id,
            "Bob",
            CAFE["lat"],
            CAFE["lng"],
        )
        assert event["distance"] == pytest.approx(0.57, abs=0.01)
        [friend] = (await alice.get("/nearby-friends"))["friends"]
        assert (friend["friend_id"], friend["distance"]) == (bob.user_id, event["distance"])
        assert friend["fix"]["timestamp"] == event["timestamp"]

        await share(bob, enabled=False)

        assert await hers.next("friend_location_gone") == {
            "type": "friend_location_gone",
            "friend_id": bob.user_id,
            "reason": "STOPPED",
        }
        assert (await his.next("friend_location_gone"))["friend_id"] == alice.user_id
    assert (await alice.get("/nearby-friends"))["friends"] == []


async def test_who_is_far_away_is_not_nearby(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await his.ask("location_update", **SEA)
        await hers.ask("location_update", **PARK)
    assert (await alice.get("/nearby-friends", radius=100))["friends"] == []


async def test_a_decision_about_a_friend_holds_at_once_and_can_be_taken_back(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await hers.ask("location_update", **PARK)
        await his.ask("location_update", **CAFE)
        await hers.next("friend_location_update")

        await grant(bob, alice, "HIDDEN")
        assert (await hers.next("friend_location_gone"))["reason"] == "STOPPED"
        assert (await alice.get("/nearby-friends"))["friends"] == []

        decided = await grant(bob, alice, "KILOMETRE", duration_s=3600)
        assert decided["precision"] == "KILOMETRE"
        coarse = await hers.next("friend_location_update", precision="KILOMETRE")
        assert (coarse["lat"], coarse["lng"]) != (CAFE["lat"], CAFE["lng"])
        assert [one["friend_id"] for one in (await bob.get("/location-grants"))["grants"]] == [alice.user_id]

        answer = await bob.request("DELETE", f"/location-grants/{alice.user_id}")
        assert answer.status_code == 200, answer.text
        exact = await hers.next("friend_location_update", precision="EXACT")
        assert (exact["lat"], exact["lng"]) == (CAFE["lat"], CAFE["lng"])
    assert (await bob.get("/location-grants"))["grants"] == []


async def test_who_is_blocked_sees_nothing_any_more(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await hers.ask("location_update", **PARK)
        await his.ask("location_update", **CAFE)
        await his.next("friend_location_update")

        await alice.post("/blocks", {"blocked_id": bob.user_id})

        assert (await his.next("friend_location_gone"))["reason"] == "STOPPED"
    assert (await bob.get("/nearby-friends"))["friends"] == []


async def test_a_user_can_read_who_was_shown_the_users_place(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await hers.ask("location_update", **PARK)
        await his.ask("location_update", **CAFE)
        await hers.next("friend_location_update")

    async def is_logged() -> bool:
        return [one["viewer_id"] for one in (await bob.get("/location-views"))["views"]] == [alice.user_id]

    await until(is_logged)
    [entry] = (await bob.get("/location-views"))["views"]
    assert entry["precision"] == "EXACT"
    assert entry["count"] >= 1


async def test_a_fix_that_cannot_be_true_is_refused_with_its_reason(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, _ = await two_friends(http)
    async with line(hither.websocket_url, alice) as hers:
        await hers.ask("location_update", **PARK)
        too_far = await hers.ask("location_update", **SEA)
        too_old = await hers.ask("location_update", **PARK, timestamp="2020-01-01T00:00:00Z")
    assert (too_far["type"], too_far["code"], too_far["reason"]) == (
        "error",
        "FAILED_PRECONDITION",
        "IMPLAUSIBLE_MOVE",
    )
    assert (too_old["code"], too_old["reason"]) == ("INVALID_ARGUMENT", "FIX_OUT_OF_TIME")


async def test_nothing_is_kept_of_who_shares_with_nobody(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await two_friends(http)
    await share(bob, enabled=False)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await hers.ask("location_update", **PARK)
        answer = await his.ask("location_update", **CAFE)
    assert (answer["type"], answer.get("shared", False)) == ("ok", False)
    await share(bob)
    assert (await alice.get("/nearby-friends"))["friends"] == []


async def test_the_client_shares_as_the_server_asks_and_is_told_of_friends(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob = await two_friends(http)
    places = iter([Place(PARK["lat"], PARK["lng"])])

    async def once() -> Place | None:
        return next(places, None)

    async def at_once(_seconds: float) -> None:
        """There is nothing more to wait for."""

    async with HitherClient(hither.url, alice.token, sleep=at_once) as hers, RestClient(hither.url, bob.token) as rest:
        await hers.share_location(once)
        async with line(hither.websocket_url, bob) as his:
            await his.ask("location_update", **CAFE)
            while not isinstance(event := await hers.next_event(), FriendLocationUpdate):
                pass
        assert event.friend_id == bob.user_id
        assert (await rest.location_sharing()).enabled
        assert [one.friend_id for one in await rest.nearby_friends(radius=1)] == [alice.user_id]
        decided = await rest.grant_location(alice.user_id, "CITY", duration_s=60)
        assert await rest.location_grants() == [decided]
        await rest.revoke_location(alice.user_id)
        assert not (await rest.set_location_sharing(False)).enabled
        while not isinstance(gone := await hers.next_event(), FriendLocationGone):
            pass
        assert (gone.friend_id, gone.reason) == (bob.user_id, "STOPPED")
