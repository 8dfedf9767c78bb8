"""Who is there, and who may know it: the stories of presence."""

from collections.abc import Awaitable, Callable

import httpx

from hither_client import Privacy, RestClient
from tests.support.people import Frame, Line, Person, befriend, line, sign_up, until
from tests.support.runner import Hither


async def friends(http: httpx.AsyncClient, *names: str) -> list[Person]:
    """The first of them is a friend of all the others."""
    people = [await sign_up(http, name) for name in names]
    for other in people[1:]:
        await befriend(people[0], other)
    return people


async def listed(person: Person) -> dict[str, Frame]:
    """How the person's friends are, by user id."""
    return {friend["user_id"]: friend for friend in (await person.get("/presence"))["friends"]}


def is_listed(person: Person, friend: Person, status: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool((await listed(person))[friend.user_id]["status"] == status)

    return look


async def says(speaker: Line, status: str, **fields: str) -> None:
    assert (await speaker.ask("set_presence", status=status, **fields))["type"] == "ok"


async def test_friends_see_status_and_text_and_when_somebody_went(hither: Hither, http: httpx.AsyncClient) -> None:
    bob, ann = await friends(http, "bob", "ann")
    async with line(hither.websocket_url, bob) as his:
        async with line(hither.websocket_url, ann) as hers:
            came = await his.next("presence", user_id=ann.user_id, status="ONLINE")
            await says(hers, "AWAY", text="at lunch ☕")
            away = await his.next("presence", user_id=ann.user_id, status="AWAY")
            seen = (await listed(bob))[ann.user_id]
            await says(hers, "ONLINE")
            back = await his.next("presence", user_id=ann.user_id, status="ONLINE")
        gone = await his.next("presence", user_id=ann.user_id, status="OFFLINE")
    assert (came["text"], away["text"], back["text"], gone["text"]) == ("", "at lunch ☕", "at lunch ☕", "")
    assert (seen["status"], seen["text"]) == ("AWAY", "at lunch ☕")
    assert "last_seen" not in away
    assert gone["last_seen"]


async def test_a_text_that_is_too_long_is_refused(hither: Hither, http: httpx.AsyncClient) -> None:
    ann = await sign_up(http, "ann")
    async with line(hither.websocket_url, ann) as hers:
        answer = await hers.ask("set_presence", status="ONLINE", text="x" * 101)
    assert (answer["type"], answer["code"]) == ("error", "INVALID_ARGUMENT")


async def test_several_devices_fold_into_the_most_present_one(hither: Hither, http: httpx.AsyncClient) -> None:
    bob, phone = await friends(http, "bob", "ann")
    laptop = await phone.on("laptop")
    async with line(hither.websocket_url, bob) as his, line(hither.websocket_url, phone) as on_phone:
        await his.next("presence", user_id=phone.user_id, status="ONLINE")
        async with line(hither.websocket_url, laptop) as on_laptop:
            await says(on_laptop, "ONLINE")
            await says(on_phone, "AWAY", text="busy")
            still = await his.next("presence", user_id=phone.user_id)
        left = await his.next("presence", user_id=phone.user_id)
    assert (still["status"], still["text"]) == ("ONLINE", "busy")
    assert left["status"] == "AWAY"


async def test_a_connection_that_breaks_and_comes_back_is_told_to_nobody(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    bob, ann, carol = await friends(http, "bob", "ann", "carol")
    async with line(hither.websocket_url, bob) as his, line(hither.websocket_url, carol) as carols:
        await his.next("presence", user_id=carol.user_id, status="ONLINE")
        for _ in range(5):
            async with line(hither.websocket_url, ann):
                pass
        async with line(hither.websocket_url, ann):
            await his.next("presence", user_id=ann.user_id, status="ONLINE")
            await says(carols, "AWAY")
            await his.next("presence", user_id=carol.user_id, status="AWAY")
    assert his.passed_over("presence", user_id=ann.user_id, status="OFFLINE") == []


async def test_who_hides_is_gone_for_friends_until_they_may_know_again(hither: Hither, http: httpx.AsyncClient) -> None:
    bob, ann, carol = await friends(http, "bob", "ann", "carol")
    async with (
        line(hither.websocket_url, bob) as his,
        line(hither.websocket_url, ann) as hers,
        line(hither.websocket_url, carol) as carols,
    ):
        for friend in (ann, carol):
            await his.next("presence", user_id=friend.user_id, status="ONLINE")
        answer = await ann.put("/settings/privacy", {"presence": "NOBODY"})
        seen = (await listed(bob))[ann.user_id]
        hidden = await his.next("presence", user_id=ann.user_id)
        await says(hers, "AWAY", text="in secret")
        await says(carols, "AWAY")
        await his.next("presence", user_id=carol.user_id, status="AWAY")
        noticed = his.passed_over("presence", user_id=ann.user_id)
        await ann.put("/settings/privacy", {"presence": "FRIENDS"})
        shown = await his.next("presence", user_id=ann.user_id, status="AWAY")
    assert answer["privacy"] == {"presence": "NOBODY", "last_seen": "FRIENDS"}
    for one in (hidden, seen):
        assert (one["status"], one["text"], "last_seen" in one) == ("OFFLINE", "", False)
    assert noticed == []
    assert shown["text"] == "in secret"


async def test_a_hidden_last_seen_is_neither_told_nor_listed(hither: Hither, http: httpx.AsyncClient) -> None:
    bob, ann = await friends(http, "bob", "ann")
    async with RestClient(hither.url, ann.token) as rest:
        before, after = await rest.privacy(), await rest.update_privacy(last_seen="NOBODY")
    async with line(hither.websocket_url, bob) as his:
        async with line(hither.websocket_url, ann):
            await his.next("presence", user_id=ann.user_id, status="ONLINE")
        gone = await his.next("presence", user_id=ann.user_id, status="OFFLINE")
        seen = (await listed(bob))[ann.user_id]
        await ann.put("/settings/privacy", {"last_seen": "FRIENDS"})
        told = await his.next("presence", user_id=ann.user_id)
    assert (before, after) == (Privacy("FRIENDS", "FRIENDS"), Privacy("FRIENDS", "NOBODY"))
    assert "last_seen" not in gone
    assert "last_seen" not in seen
    assert told["last_seen"]


async def test_everyone_may_watch_whoever_allows_it_and_nobody_else(hither: Hither, http: httpx.AsyncClient) -> None:
    ann, star, shy = [await sign_up(http, name) for name in ("ann", "star", "shy")]
    bob = await sign_up(http, "bob")
    await befriend(bob, star)
    await star.put("/settings/privacy", {"presence": "EVERYONE", "last_seen": "NOBODY"})
    async with (
        line(hither.websocket_url, star) as stars,
        line(hither.websocket_url, shy) as shys,
        line(hither.websocket_url, ann) as hers,
    ):
        await until(is_listed(bob, star, "ONLINE"))
        answer = await hers.ask("watch_presence", user_ids=[star.user_id, shy.user_id])
        await says(shys, "AWAY")
        await says(stars, "AWAY", text="on stage")
        told = await hers.next("presence", user_id=star.user_id, status="AWAY")
        await star.put("/settings/privacy", {"presence": "FRIENDS"})
        hidden = await hers.next("presence", user_id=star.user_id)
    statuses = {one["user_id"]: one["status"] for one in answer["presences"]}
    assert (answer["type"], statuses) == ("presences", {star.user_id: "ONLINE", shy.user_id: "OFFLINE"})
    assert told["text"] == "on stage"
    assert (hidden["status"], hidden["text"]) == ("OFFLINE", "")
    assert hers.passed_over("presence", user_id=shy.user_id) == []


async def test_who_is_blocked_learns_nothing_even_of_what_everyone_may_know(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    ann, star, carol = await friends(http, "ann", "star", "carol")
    await star.put("/settings/privacy", {"presence": "EVERYONE"})
    async with (
        line(hither.websocket_url, star) as stars,
        line(hither.websocket_url, ann) as hers,
        line(hither.websocket_url, carol) as carols,
    ):
        for friend in (star, carol):
            await hers.next("presence", user_id=friend.user_id, status="ONLINE")
        await star.post("/blocks", {"blocked_id": ann.user_id})
        await says(stars, "AWAY", text="in peace")
        answer = await hers.ask("watch_presence", user_ids=[star.user_id, carol.user_id])
        await says(carols, "AWAY")
        await hers.next("presence", user_id=carol.user_id, status="AWAY")
        listing = await listed(ann)
    assert [(one["status"], one["text"]) for one in answer["presences"] if one["user_id"] == star.user_id] == [
        ("OFFLINE", "")
    ]
    assert hers.passed_over("presence", user_id=star.user_id, status="AWAY") == []
    assert star.user_id not in listing


async def test_a_screen_gets_only_those_it_shows_until_it_wants_all_again(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    ann, bob, carol = await friends(http, "ann", "bob", "carol")
    laptop = await ann.on("laptop")
    async with (
        line(hither.websocket_url, bob) as bobs,
        line(hither.websocket_url, carol) as carols,
        line(hither.websocket_url, ann) as on_phone,
        line(hither.websocket_url, laptop) as on_laptop,
    ):
        for of_hers in (on_phone, on_laptop):
            for friend in (bob, carol):
                await of_hers.next("presence", user_id=friend.user_id, status="ONLINE")
        answer = await on_phone.ask("watch_presence", user_ids=[bob.user_id])
        await says(carols, "AWAY")
        await on_laptop.next("presence", user_id=carol.user_id, status="AWAY")
        await says(bobs, "AWAY")
        await on_phone.next("presence", user_id=bob.user_id, status="AWAY")
        narrowed = on_phone.passed_over("presence", user_id=carol.user_id, status="AWAY")
        all_again = await on_phone.ask("watch_presence", user_ids=[])
        await on_phone.next("presence", user_id=carol.user_id, status="AWAY")
        await says(carols, "ONLINE")
        await on_phone.next("presence", user_id=carol.user_id, status="ONLINE")
    assert [(one["user_id"], one["status"]) for one in answer["presences"]] == [(bob.user_id, "ONLINE")]
    assert narrowed == []
    assert all_again["presences"] == []
