"""Two people and more talk: the stories of messages."""

from typing import Any

import httpx

from discovery.ids import direct_conversation_id
from tests.support.people import Person, befriend, line, sign_up, until
from tests.support.runner import Hither


async def test_a_message_reaches_the_recipient_and_is_acked_with_its_place(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c1", text="Hello, Bob")
        event = await his.next("message")
    assert (ack["type"], ack["client_id"], ack["seq"], ack["status"]) == ("ack", "c1", "1", "SENT")
    assert ack["conversation_id"] == direct_conversation_id(alice.user_id, bob.user_id)
    message = event["message"]
    assert event["pos"] == "1"
    assert message["text"] == "Hello, Bob"
    assert (message["message_id"], message["seq"], message["sender_id"]) == (ack["message_id"], "1", alice.user_id)
    assert message["create_time"] == ack["create_time"]


async def test_messages_arrive_in_the_order_of_their_seqs_on_every_device(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, phone = await sign_up(http, "alice"), await sign_up(http, "bob")
    laptop = await phone.on("laptop")
    async with (
        line(hither.websocket_url, alice) as hers,
        line(hither.websocket_url, phone) as on_phone,
        line(hither.websocket_url, laptop) as on_laptop,
    ):
        for number in range(20):
            await hers.send("send_message", id=str(number), to=phone.user_id, client_id=f"c{number}", text=f"m{number}")
        expected = [f"m{number}" for number in range(20)]
        assert await on_phone.texts(20) == expected
        assert await on_laptop.texts(20) == expected


async def test_a_retry_with_the_same_client_id_gets_the_first_answer(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers:
        first = await hers.ask("send_message", to=bob.user_id, client_id="same", text="once")
        again = await hers.ask("send_message", to=bob.user_id, client_id="same", text="once")
        history = await hers.ask("history", conversation_id=first["conversation_id"], limit=10)
    assert {**again, "id": ""} == {**first, "id": ""}
    assert [message["text"] for message in history["messages"]] == ["once"]


async def test_an_offline_device_catches_up_before_live_events(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    laptop = await bob.on("laptop")
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, laptop) as on_laptop:
        for number in range(3):
            await hers.ask("send_message", to=bob.user_id, client_id=f"c{number}", text=f"missed {number}")
        await on_laptop.texts(3)
        async with line(hither.websocket_url, bob, cursor=0) as his:
            assert await his.texts(3) == ["missed 0", "missed 1", "missed 2"]
            assert (await his.next("synced"))["pos"] == "3"
            await hers.ask("send_message", to=bob.user_id, client_id="live", text="live")
            assert await his.texts(1) == ["live"]


async def cursor_is(person: Person, pos: int) -> bool:
    return [device["cursor"] for device in (await person.get("/devices"))["devices"]] == [str(pos)]


async def test_a_device_resumes_at_the_place_it_acknowledged(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers:
        async with line(hither.websocket_url, bob) as his:
            for number in range(3):
                await hers.ask("send_message", to=bob.user_id, client_id=f"c{number}", text=f"m{number}")
            await his.texts(3)
            await his.send("received", pos="2")
            await hers.next("message_status", status="DELIVERED", seq="2")
            # Marks come first: a device that goes now may be told again. The cursor is what it resumes at.
            await until(lambda: cursor_is(bob, 2))
        async with line(hither.websocket_url, bob) as his:
            assert await his.texts(1) == ["m2"]


async def test_the_sender_learns_what_was_delivered_and_what_was_read(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c", text="read me")
        event = await his.next("message")
        await his.send("received", pos=event["pos"])
        delivered = await hers.next("message_status", status="DELIVERED")
        assert (await his.ask("mark_read", conversation_id=ack["conversation_id"], seq=ack["seq"]))["type"] == "ok"
        seen = await hers.next("message_status", status="SEEN")
    assert (delivered["seq"], delivered["user_id"], delivered["conversation_id"]) == (
        "1",
        bob.user_id,
        ack["conversation_id"],
    )
    assert (seen["seq"], seen["user_id"]) == ("1", bob.user_id)


async def test_history_is_paged_backwards_and_forwards(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers:
        for number in range(1, 8):
            ack = await hers.ask("send_message", to=bob.user_id, client_id=f"c{number}", text=str(number))
    path = f"/conversations/{ack['conversation_id']}/messages"
    newest = await bob.get(path, limit=3)
    older = await bob.get(path, limit=3, page_token=newest["next_page_token"])
    oldest = await bob.get(path, limit=3, page_token=older["next_page_token"])
    forwards = await bob.get(path, limit=3, after_seq=2)
    assert [m["text"] for m in newest["messages"]] == ["5", "6", "7"]
    assert [m["text"] for m in older["messages"]] == ["2", "3", "4"]
    assert [m["text"] for m in oldest["messages"]] == ["1"]
    assert oldest["next_page_token"] == ""
    assert [m["text"] for m in forwards["messages"]] == ["3", "4", "5"]


async def test_conversations_are_listed_by_their_last_message_with_what_is_unread(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob, carol = [await sign_up(http, name) for name in ("alice", "bob", "carol")]
    async with (
        line(hither.websocket_url, alice) as hers,
        line(hither.websocket_url, bob) as his,
        line(hither.websocket_url, carol) as carols,
    ):
        for number in (1, 2, 3):
            with_alice = await hers.ask("send_message", to=bob.user_id, client_id=f"c{number}", text=f"alice {number}")
        await his.texts(3)
        with_carol = await carols.ask("send_message", to=bob.user_id, client_id="c", text="carol")
        await his.texts(1)
        await his.ask("send_message", to=alice.user_id, client_id="b", text="bob")
        await his.texts(1)
        await hers.texts(4)
        before = await his.ask("conversations", page_size=1)
        rest = await bob.get("/inbox/conversations", page_size=1, page_token=before["next_page_token"])
        await his.ask("mark_read", conversation_id=with_alice["conversation_id"], seq="2")
        after = await bob.get("/inbox/conversations")
        alices = await hers.ask("conversations")

    def listed(page: dict[str, Any]) -> list[tuple[str, str, int, int]]:
        return [
            (one["conversation_id"], one["last_message"]["text"], int(one["unread_count"]), int(one["seen_seq"]))
            for one in page["conversations"]
        ]

    assert (before["type"], listed(before)) == ("conversations_page", [(with_alice["conversation_id"], "bob", 3, 0)])
    assert listed(rest) == [(with_carol["conversation_id"], "carol", 1, 0)]
    assert rest["next_page_token"] == ""
    assert listed(after) == [
        (with_alice["conversation_id"], "bob", 1, 2),
        (with_carol["conversation_id"], "carol", 1, 0),
    ]
    assert listed(alices) == [(with_alice["conversation_id"], "bob", 1, 0)]


async def test_a_message_can_be_sent_by_rest(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    await befriend(alice, bob)
    group = (await alice.post("/conversations", {"name": "Plans", "member_ids": [bob.user_id]}))["conversation"]
    async with line(hither.websocket_url, bob) as his:
        ack = await alice.post(
            f"/conversations/{group['conversation_id']}/messages", {"client_id": "c", "text": "by REST"}
        )
        assert await his.texts(1) == ["by REST"]
    assert (ack["seq"], ack["status"]) == ("1", "SENT")


async def test_a_group_hears_everything_and_a_removed_member_nothing_more(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob, carol = [await sign_up(http, name) for name in ("alice", "bob", "carol")]
    await befriend(alice, bob)
    await befriend(alice, carol)
    group = (await alice.post("/conversations", {"name": "Trip", "member_ids": [bob.user_id, carol.user_id]}))[
        "conversation"
    ]
    conversation_id = group["conversation_id"]
    async with (
        line(hither.websocket_url, alice) as hers,
        line(hither.websocket_url, bob) as his,
        line(hither.websocket_url, carol) as carols,
    ):
        await hers.ask("send_message", conversation_id=conversation_id, client_id="c1", text="all three")
        assert await his.texts(1) == ["all three"]
        assert await carols.texts(1) == ["all three"]
        removed = await alice.request("DELETE", f"/conversations/{conversation_id}/members/{carol.user_id}")
        assert removed.status_code == 200
        refused = await carols.ask("send_message", conversation_id=conversation_id, client_id="c2", text="still here?")
        await hers.ask("send_message", conversation_id=conversation_id, client_id="c3", text="two now")
        assert await his.texts(1) == ["two now"]
        page = await carols.ask("sync", pos="0", limit=10)
    assert (refused["type"], refused["reason"]) == ("error", "NOT_A_MEMBER")
    assert [event["message"]["text"] for event in page["events"] if event["type"] == "message"] == ["all three"]


async def test_typing_is_told_to_the_others_only(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c", text="hi")
        await hers.send("typing", conversation_id=ack["conversation_id"])
        typing = await his.next("typing")
    assert (typing["conversation_id"], typing["user_id"]) == (ack["conversation_id"], alice.user_id)


async def test_a_blocked_sender_is_refused_at_once(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers:
        assert (await hers.ask("send_message", to=bob.user_id, client_id="c1", text="hi"))["type"] == "ack"
        await bob.post("/blocks", {"blocked_id": alice.user_id})
        refused = await hers.ask("send_message", to=bob.user_id, client_id="c2", text="hello?")
    assert (refused["type"], refused["code"], refused["reason"]) == ("error", "PERMISSION_DENIED", "BLOCKED")


async def test_the_second_connection_of_a_device_replaces_the_first(hither: Hither, http: httpx.AsyncClient) -> None:
    alice = await sign_up(http, "alice")
    async with line(hither.websocket_url, alice) as first, line(hither.websocket_url, alice) as second:
        assert (await first.closed())[0] == 4101
        await second.send("ping", timestamp=7)
        assert (await second.next("pong"))["timestamp"] == 7
