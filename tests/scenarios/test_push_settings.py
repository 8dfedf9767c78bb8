"""Where users can be woken up and how they want it: the stories of tokens, settings, mutes and what became of pushes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx

from hither_client import RestClient
from services.ports.push_store import DeliveryRow, Fate
from services.storage.sql.directory import sqlite_url
from services.storage.sql.push_deliveries import SqlDeliveryLog
from tests.support.apart import RunningCluster
from tests.support.people import Frame, Person, fresh, line, sign_up
from tests.support.push_subscriptions import subscription
from tests.support.runner import Hither


def android(name: str) -> Frame:
    return {"platform": "ANDROID", "token": f"android:{name}"}


async def devices(person: Person) -> dict[str, str]:
    """Platform by device."""
    return {token["device_id"]: token["platform"] for token in (await person.get("/push-tokens"))["tokens"]}


async def refusal(person: Person, method: str, path: str, body: object = None, **query: object) -> tuple[int, str]:
    """Status and reason of a request that must fail."""
    answer = await person.request(method, path, body, **query)
    assert not answer.is_success
    return answer.status_code, next(one["reason"] for one in answer.json()["details"] if "reason" in one)


@asynccontextmanager
async def delivery_log(hither: Hither) -> AsyncIterator[SqlDeliveryLog]:
    """Where Hither keeps what became of pushes, from beside it."""
    apart = isinstance(hither, RunningCluster)
    url = hither.settings["HITHER_ENGINES_PUSH"] if isinstance(hither, RunningCluster) else ""
    log = await SqlDeliveryLog.open(url if apart else sqlite_url(hither.data / "push.db"))
    yield log
    await log.close()


async def test_a_device_registers_by_rest_and_by_frame_and_replaces_its_token(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    phone = await sign_up(http, "ann")
    laptop = await phone.on("laptop")
    await phone.put("/push-tokens", android(fresh("t")))
    async with line(hither.websocket_url, laptop) as on_laptop:
        registered = await on_laptop.ask("register_push_token", platform="WEB", token=subscription())
    before = await devices(phone)
    await phone.put("/push-tokens", {"platform": "IOS", "token": "ab" * 32})
    page = await phone.get("/push-tokens", page_size=1)

    assert registered["type"] == "ok"
    assert before == {"laptop": "WEB", "phone": "ANDROID"}
    assert await devices(laptop) == {"laptop": "WEB", "phone": "IOS"}
    rest = await phone.get("/push-tokens", page_size=1, page_token=page["next_page_token"])
    assert [token["device_id"] for token in (*page["tokens"], *rest["tokens"])] == ["laptop", "phone"]
    assert rest["next_page_token"] == ""
    assert all("token" not in token for token in page["tokens"])
    await phone.request("DELETE", "/push-tokens/laptop")
    assert await devices(phone) == {"phone": "IOS"}


async def test_what_is_no_token_is_refused_on_both_ways_with_the_field(hither: Hither, http: httpx.AsyncClient) -> None:
    ann = await sign_up(http, "ann")
    answer = await ann.request(
        "PUT", "/push-tokens", {"platform": "WEB", "token": subscription("http://push.example.com/x")}
    )
    async with line(hither.websocket_url, ann) as hers:
        frame = await hers.ask("register_push_token", platform="IOS", token="not hex")

    fields = [field["field"] for one in answer.json()["details"] for field in one.get("field_violations", ())]
    assert (answer.status_code, fields) == (400, ["token"])
    assert (frame["type"], frame["code"], frame["reason"]) == ("error", "INVALID_ARGUMENT", "INVALID_REQUEST")
    assert await devices(ann) == {}


async def test_a_phone_that_changes_hands_wakes_up_its_new_user_only(hither: Hither, http: httpx.AsyncClient) -> None:
    ann, bob = await sign_up(http, "ann"), await sign_up(http, "bob")
    token = android(fresh("t"))
    await ann.put("/push-tokens", token)

    await bob.put("/push-tokens", token)

    assert (await devices(ann), await devices(bob)) == ({}, {"phone": "ANDROID"})


async def test_settings_are_the_users_on_every_device_and_change_in_parts(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    phone = await sign_up(http, "ann")
    laptop = await phone.on("laptop")
    first = (await phone.get("/settings/push"))["settings"]
    await phone.put(
        "/settings/push", {"quiet_from_min": 1320, "quiet_to_min": 420, "time_zone": "America/Argentina/Buenos_Aires"}
    )
    changed = (await laptop.put("/settings/push", {"preview": "SENDER"}))["settings"]

    assert first == {"preview": "NOTHING", "quiet_from_min": 0, "quiet_to_min": 0, "time_zone": "UTC"}
    assert changed == {
        "preview": "SENDER",
        "quiet_from_min": 1320,
        "quiet_to_min": 420,
        "time_zone": "America/Argentina/Buenos_Aires",
    }
    assert (await phone.get("/settings/push"))["settings"] == changed
    assert await refusal(phone, "PUT", "/settings/push", {"time_zone": "Mars/Base"}) == (400, "INVALID_REQUEST")
    assert await refusal(phone, "PUT", "/settings/push", {"quiet_to_min": 1440}) == (400, "INVALID_REQUEST")


async def test_conversations_are_muted_for_a_time_or_for_good_and_heard_again(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    ann = await sign_up(http, "ann")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with RestClient(hither.url, ann.token) as rest:
        for name in ("g.3", "g.1", "g.2"):
            await rest.mute(name, tomorrow if name == "g.2" else None)
        await rest.unmute("g.3")
    first = await ann.get("/mutes", page_size=1)
    second = await ann.get("/mutes", page_size=1, page_token=first["next_page_token"])

    assert first["mutes"] == [{"conversation_id": "g.1"}]
    assert [mute["conversation_id"] for mute in second["mutes"]] == ["g.2"]
    assert abs(datetime.fromisoformat(second["mutes"][0]["until"]) - tomorrow) < timedelta(milliseconds=2)
    assert second["next_page_token"] == ""
    past = {"until": "2020-01-01T00:00:00Z"}
    assert await refusal(ann, "PUT", "/conversations/g.4/mute", past) == (400, "INVALID_REQUEST")


async def test_what_became_of_pushes_is_read_newest_first_and_page_by_page(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    ann = await sign_up(http, "ann")
    rows = [
        DeliveryRow(ann.user_id, "phone", f"p{n}", 1_790_000_000_000 + n, fate, why, "group", "g.1", n, "c", 1, 30)
        for n, (fate, why) in enumerate(
            [(Fate.ACCEPTED, ""), (Fate.REFUSED, "BadDeviceToken"), (Fate.DROPPED, "MUTED")]
        )
    ]
    async with delivery_log(hither) as log:
        await log.record(rows)
    path = "/push-tokens/phone/deliveries"

    first = await ann.get(path, page_size=2)
    second = await ann.get(path, page_size=2, page_token=first["next_page_token"])

    told = [(one["fate"], one.get("reason", "")) for one in (*first["deliveries"], *second["deliveries"])]
    assert told == [("DROPPED", "MUTED"), ("REFUSED", "BadDeviceToken"), ("ACCEPTED", "")]
    assert first["deliveries"][0] == {
        "push_id": "p2",
        "time": "2026-09-21T14:13:20.002Z",
        "fate": "DROPPED",
        "reason": "MUTED",
        "kind": "GROUP",
        "conversation_id": "g.1",
        "messages": 2,
        "collapse_id": "c",
        "attempts": 1,
        "latency_ms": "30",
    }
    assert second["next_page_token"] == ""
    stranger = await sign_up(http, "eve")
    assert (await stranger.get(path))["deliveries"] == []
    token = first["next_page_token"]
    assert await refusal(stranger, "GET", path, page_token=token) == (400, "BAD_PAGE_TOKEN")


async def test_nobody_speaks_for_another_user_or_names_anothers_device(hither: Hither, http: httpx.AsyncClient) -> None:
    ann, eve = await sign_up(http, "ann"), await sign_up(http, "eve")
    laptop = await ann.on("laptop")
    await laptop.put("/push-tokens", android(fresh("t")))
    forged = {**android(fresh("t")), "user_id": ann.user_id}

    assert await refusal(eve, "PUT", "/push-tokens", forged) == (403, "NOT_YOURSELF")
    assert await refusal(eve, "GET", "/mutes", user_id=ann.user_id) == (403, "NOT_YOURSELF")
    assert await refusal(eve, "PUT", "/push-tokens", {**forged, "user_id": "", "device_id": "laptop"}) == (
        403,
        "NOT_YOURSELF",
    )
    assert await refusal(eve, "POST", "/push-tokens/laptop:test", {}) == (404, "NO_SUCH_DEVICE")
    assert (await eve.request("DELETE", "/push-tokens/laptop")).is_success
    assert await devices(ann) == {"laptop": "ANDROID"}
    nobody = await http.get("/api/v1/push-tokens")
    assert nobody.status_code == 401


async def test_a_test_without_a_provider_says_so(hither: Hither, http: httpx.AsyncClient) -> None:
    ann = await sign_up(http, "ann")
    await ann.put("/push-tokens", android(fresh("t")))

    assert await refusal(ann, "POST", "/push-tokens/phone:test", {}) == (400, "NO_PROVIDER")


async def test_a_removed_device_loses_its_token_and_what_became_of_its_pushes(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    phone = await sign_up(http, "ann")
    laptop = await phone.on("laptop")
    for person in (phone, laptop):
        async with line(hither.websocket_url, person) as hers:
            await hers.ask("register_push_token", **android(fresh("t")))
    row = DeliveryRow(phone.user_id, "laptop", "p", 1, Fate.ACCEPTED, "", "direct", "d.1", 1, "", 1, 1)
    async with delivery_log(hither) as log:
        await log.record([row])
    assert len((await phone.get("/push-tokens/laptop/deliveries"))["deliveries"]) == 1

    removed = await phone.request("DELETE", "/devices/laptop")

    assert removed.status_code == 200
    assert await devices(phone) == {"phone": "ANDROID"}
    assert (await phone.get("/push-tokens/laptop/deliveries"))["deliveries"] == []
