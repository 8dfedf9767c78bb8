import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import pytest

from hither_client import (
    BadToken,
    ClientClosed,
    ClientSettings,
    Disconnected,
    Event,
    FileCursorStore,
    HitherClient,
    MemoryCursorStore,
    MessageReceived,
    NoAnswer,
    NotAMember,
    ProtocolFailure,
    Replaced,
    Synced,
)
from tests.support.fake_edge import FakeEdge, FakePeer, message_frame

T = TypeVar("T")
FAST = ClientSettings(answer_deadline_s=0.05, first_retry_s=0.01, retry_limit_s=0.02, connect_timeout_s=2.0)


async def within(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(30):
        return await awaitable


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        yield edge


def new_client(edge: FakeEdge, *, settings: ClientSettings = FAST, cursor: int | None = 0) -> HitherClient:
    return HitherClient(
        edge.url, "token", cursor=MemoryCursorStore(cursor), settings=settings, open_timeout_s=5.0, proxy=None
    )


async def opened(edge: FakeEdge, client: HitherClient) -> FakePeer:
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    await peer.welcome(end=0)
    await within(opening)
    return peer


async def next_of(client: HitherClient, kind: type[Event]) -> Event:
    async with asyncio.timeout(30):
        while not isinstance(event := await client.next_event(), kind):
            pass
    return event


async def next_message(client: HitherClient) -> int:
    event = await next_of(client, MessageReceived)
    assert isinstance(event, MessageReceived)
    return event.pos


async def test_a_send_returns_the_place_that_the_server_gave_it(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    sending = asyncio.create_task(client.send(to="bob", text="hi"))
    request = await peer.expect("send_message")
    await peer.ack(request, 7)
    ack = await within(sending)
    assert (request["to"], request["text"], ack.seq, ack.client_id) == ("bob", "hi", 7, request["client_id"])
    await client.close()


async def test_a_send_without_an_ack_is_repeated_with_the_same_client_id(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    sending = asyncio.create_task(client.send(to="bob", text="hi"))
    first = await peer.expect("send_message")
    second = await peer.expect("send_message")
    assert second == first
    await peer.ack(second, 1)
    await peer.ack(second, 1)
    assert (await within(sending)).seq == 1
    await client.close()


async def test_unacked_sends_are_repeated_in_order_after_a_reconnect(edge: FakeEdge) -> None:
    client = new_client(edge, settings=ClientSettings(first_retry_s=0.01))
    peer = await opened(edge, client)
    sendings = [asyncio.create_task(client.send(to="bob", text=f"{n}", client_id=f"c{n}")) for n in range(3)]
    await peer.expect("send_message")
    peer.drop()
    again = await edge.accept()
    await again.welcome(end=0)
    order = []
    for seq in (1, 2, 3):
        request = await again.expect("send_message")
        order.append(request["client_id"])
        await again.ack(request, seq)
    assert order == ["c0", "c1", "c2"]
    assert [ack.seq for ack in await within(asyncio.gather(*sendings))] == [1, 2, 3]
    await client.close()


async def test_a_later_send_waits_while_an_earlier_one_is_being_repeated(edge: FakeEdge) -> None:
    client = new_client(edge, settings=ClientSettings())
    peer = await opened(edge, client)
    sendings = [asyncio.create_task(client.send(to="bob", text=f"{n}", client_id=f"c{n}")) for n in range(2)]
    for _ in range(3):
        request = await peer.expect("send_message")
        assert request["client_id"] == "c0"
        await peer.refuse(request, "UNAVAILABLE", "ENGINE_DOWN", retry_after_ms=1)
    await peer.ack(await peer.expect("send_message"), 1)
    request = await peer.expect("send_message")
    assert request["client_id"] == "c1"
    await peer.ack(request, 2)
    await within(asyncio.gather(*sendings))
    await client.close()


async def test_a_refusal_is_raised_by_its_reason(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    sending = asyncio.create_task(client.send(conversation_id="g.1", text="hi"))
    await peer.refuse(await peer.expect("send_message"), "PERMISSION_DENIED", "NOT_A_MEMBER")
    with pytest.raises(NotAMember):
        await within(sending)
    await client.close()


async def test_conversations_are_listed_with_their_last_message_and_what_is_unread(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    listing = asyncio.create_task(client.inbox_conversations(page_size=2, page_token="t1"))

    asked = await peer.expect("conversations")
    listed = {
        "conversation_id": "d.1",
        "last_message": message_frame(7)["message"],
        "unread_count": "3",
        "seen_seq": "4",
    }
    await peer.send(
        {"type": "conversations_page", "id": asked["id"], "conversations": [listed], "next_page_token": "t2"}
    )

    page = await within(listing)
    assert (asked["page_size"], asked["page_token"]) == (2, "t1")
    assert [(item.conversation_id, item.unread_count, item.seen_seq) for item in page.conversations] == [("d.1", 3, 4)]
    assert (page.conversations[0].last_message.seq, page.conversations[0].last_message.text) == (7, "hi")
    assert page.next_page_token == "t2"
    await client.close()


async def test_a_send_that_gets_no_answer_in_time_says_so(edge: FakeEdge) -> None:
    client = new_client(edge)
    await opened(edge, client)
    with pytest.raises(NoAnswer):
        await within(client.send(to="bob", text="hi", timeout_s=0.02))
    assert client.unanswered == 0
    await client.close()


async def test_open_sends_are_bounded(edge: FakeEdge) -> None:
    client = new_client(edge, settings=ClientSettings(unanswered_limit=2))
    peer = await opened(edge, client)
    sendings = [asyncio.create_task(client.send(to=f"user{n}", text="hi")) for n in range(3)]
    first = await peer.expect("send_message")
    await peer.expect("send_message")
    assert client.unanswered == 2
    await peer.ack(first, 1)
    assert (await peer.expect("send_message"))["to"] == "user2"
    for sending in sendings:
        sending.cancel()
    await client.close()


async def test_after_a_loss_the_client_comes_back_with_its_cursor(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    await peer.send(message_frame(1))
    assert await next_message(client) == 1
    peer.drop()
    again = await edge.accept()
    assert (await again.welcome(pos=1, end=2))["cursor"] == "1"
    await again.send(message_frame(1), message_frame(2))
    assert await next_message(client) == 2
    await client.close()


async def test_a_client_of_several_edges_goes_to_the_next_when_one_is_lost(edge: FakeEdge) -> None:
    async with FakeEdge() as other:
        client = HitherClient([edge.url, other.url], "token", settings=FAST, open_timeout_s=5.0, proxy=None)
        peer = await opened(edge, client)
        peer.drop()
        await (await other.accept()).welcome(end=0)
        await next_of(client, Synced)
        await client.close()


@pytest.mark.parametrize("code", [4001, 4002, 4003, 1011])
async def test_the_client_comes_back_after(edge: FakeEdge, code: int) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    await peer.close(code)
    await (await edge.accept()).welcome(end=0)
    lost = await next_of(client, Disconnected)
    assert isinstance(lost, Disconnected)
    assert lost.code == code
    await client.close()


async def test_a_replaced_device_stays_away_and_every_call_says_why(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    sending = asyncio.create_task(client.send(to="bob", text="hi"))
    await peer.expect("send_message")
    await peer.close(4101, "replaced")
    with pytest.raises(Replaced):
        await within(sending)
    with pytest.raises(Replaced):
        await next_of(client, Disconnected)
    with pytest.raises(Replaced):
        await client.send(to="bob", text="hi")
    assert edge.untaken == 0
    await client.close()


async def test_opening_with_a_bad_token_raises(edge: FakeEdge) -> None:
    opening = asyncio.create_task(new_client(edge).open())
    peer = await edge.accept()
    await peer.expect("hello")
    await peer.close(4100, "BAD_TOKEN")
    with pytest.raises(BadToken):
        await within(opening)


async def test_opening_without_a_server_gives_up_at_its_deadline() -> None:
    client = HitherClient("http://127.0.0.1:9", "token", settings=FAST, open_timeout_s=0.05, proxy=None)
    with pytest.raises(NoAnswer):
        await within(client.open())


async def test_a_gap_is_filled_by_a_sync(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    await peer.send(message_frame(3))
    request = await peer.expect("sync")
    assert request["pos"] == "0"
    page = [message_frame(1), message_frame(2), message_frame(3)]
    await peer.send({"type": "sync_page", "id": request["id"], "events": page, "next_pos": "3", "more": False})
    assert [await next_message(client) for _ in range(3)] == [1, 2, 3]
    await client.close()


async def test_what_comes_twice_is_handed_out_once(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    await peer.send(message_frame(1), message_frame(1), message_frame(2, message_id=1001), message_frame(3))
    assert [await next_message(client) for _ in range(2)] == [1, 3]
    await client.close()


async def test_an_event_is_acknowledged_when_the_next_one_is_asked_for(edge: FakeEdge) -> None:
    client = new_client(edge, settings=ClientSettings())
    peer = await opened(edge, client)
    await peer.send(message_frame(1), message_frame(2))
    assert await next_message(client) == 1
    assert client.cursor == 0
    assert await next_message(client) == 2
    assert (await peer.expect("received"))["pos"] == "1"
    await client.close()


async def test_closing_acknowledges_what_was_done_with(edge: FakeEdge, tmp_path: Path) -> None:
    store = FileCursorStore(tmp_path / "cursor")
    client = HitherClient(edge.url, "token", cursor=store, settings=FAST, proxy=None)
    peer = await opened(edge, client)
    await peer.send(message_frame(1))
    assert await next_message(client) == 1
    waiting = asyncio.create_task(client.next_event())
    assert (await peer.expect("received"))["pos"] == "1"
    await client.close()
    with pytest.raises(ClientClosed):
        await within(waiting)
    assert await FileCursorStore(tmp_path / "cursor").load() == 1
    assert await peer.gone() == 1000


async def test_a_client_without_a_cursor_leaves_the_place_to_the_server(edge: FakeEdge) -> None:
    client = new_client(edge, cursor=None)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    assert "cursor" not in await peer.welcome(pos=41, end=42)
    await peer.send(message_frame(42))
    await within(opening)
    assert await next_message(client) == 42
    assert await next_of(client, Synced) == Synced(42)
    await client.close()


async def test_an_application_that_takes_no_events_still_gets_its_acks(edge: FakeEdge) -> None:
    client = new_client(edge, settings=ClientSettings(queue_limit=2))
    peer = await opened(edge, client)
    await peer.send(*(message_frame(pos) for pos in range(1, 50)))
    sending = asyncio.create_task(client.send(to="bob", text="hi"))
    await peer.ack(await peer.expect("send_message"), 1)
    await within(sending)
    assert [await next_message(client) for _ in range(49)] == list(range(1, 50))
    await client.close()


async def test_a_server_that_falls_silent_is_left(edge: FakeEdge) -> None:
    client = new_client(edge)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    await peer.welcome(end=0, heartbeat_ms=20)
    await within(opening)
    await peer.expect("ping")
    await (await edge.accept()).welcome(end=0)
    assert await peer.gone() == 1006
    await client.close()


async def test_a_server_that_sends_what_is_no_frame_ends_the_client(edge: FakeEdge) -> None:
    client = new_client(edge)
    peer = await opened(edge, client)
    await peer.send_text("not json")
    with pytest.raises(ProtocolFailure):
        await next_of(client, Disconnected)
    await client.close()


async def test_a_token_source_is_asked_before_each_connection(edge: FakeEdge) -> None:
    tokens = iter(["first", "second"])

    async def renew() -> str:
        return next(tokens)

    client = HitherClient(edge.url, renew, settings=FAST, proxy=None)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    assert (await peer.welcome(end=0))["token"] == "first"
    await within(opening)
    peer.drop()
    assert (await (await edge.accept()).welcome(end=0))["token"] == "second"
    await client.close()


async def test_closing_leaves_no_task_behind(edge: FakeEdge) -> None:
    client = new_client(edge)
    before = asyncio.all_tasks()
    await opened(edge, client)
    sending = asyncio.create_task(client.send(to="bob", text="hi"))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosed):
        await within(sending)
    assert {task for task in asyncio.all_tasks() - before if "hither" in repr(task.get_coro())} == set()


async def test_a_cursor_that_cannot_be_kept_ends_the_client(edge: FakeEdge) -> None:
    class Full(MemoryCursorStore):
        async def save(self, pos: int) -> None:
            raise OSError("no space left on device")

    client = HitherClient(edge.url, "token", cursor=Full(0), settings=FAST, proxy=None)
    peer = await opened(edge, client)
    await peer.send(message_frame(1))
    await next_message(client)
    with pytest.raises(OSError, match="no space"):
        await next_of(client, Disconnected)
    with pytest.raises(OSError, match="no space"):
        await client.close()
