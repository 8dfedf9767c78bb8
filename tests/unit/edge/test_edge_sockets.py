"""Real clients on a real edge, over loopback."""

import asyncio
import contextlib
import json
import resource
import socket as sockets
import struct
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import websockets
from google.protobuf.message import Message
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from edge.server import affordable_connections
from edge.settings import EdgeSettings
from edge.socket import join_frames
from hither.edge.v1 import frames_pb2
from hither.messaging.v1 import messaging_service_pb2
from tests.support.edges import JsonClient, caller, json_client, running_edge, token
from tests.support.fake_mesh import FakeMesh, inbox_message

JSON = Subprotocol("hither.v1.json")
PROTO = Subprotocol("hither.v1.proto")
SEND = {"to": "bob", "client_id": "c", "text": "hello"}
ENOUGH = EdgeSettings(max_connections=100, close_timeout_s=1.0)


# --- the way in ---


async def test_http_and_websocket_share_the_port() -> None:
    async with running_edge() as edge, httpx.AsyncClient() as http, json_client(edge) as client:
        assert (await http.get(f"{edge.http_url}/x")).text == "http"
        body = b"z" * 300_000
        assert (await http.post(f"{edge.http_url}/x", content=body)).content == body
        await client.send("ping", id="1", timestamp="now")
        assert await client.next() == {"type": "pong", "id": "1", "timestamp": "now"}


async def test_a_missed_message_comes_before_synced_and_a_new_one_after() -> None:
    async with running_edge() as edge:
        edge.mesh.cursors["phone"] = 1
        edge.mesh.inboxes["alice"] += [inbox_message(1), inbox_message(2)]
        async with connect(f"{edge.websocket_url}?token={token()}", subprotocols=[JSON]) as socket:
            client = JsonClient(socket)
            types = [(frame["type"], frame["pos"]) for frame in [await client.next() for _ in range(3)]]
            assert types == [("connected", "1"), ("message", "2"), ("synced", "2")]
            [connection_id] = await edge.connection_ids()
            assert await edge.deliver_message(inbox_message(3), connection_id) == []
            assert (await client.next())["pos"] == "3"


async def test_the_cursor_may_stand_in_the_address() -> None:
    async with running_edge() as edge:
        edge.mesh.inboxes["alice"] += [inbox_message(1), inbox_message(2)]
        async with connect(f"{edge.websocket_url}?token={token()}&cursor=1", subprotocols=[JSON]) as socket:
            client = JsonClient(socket)
            assert (await client.next())["pos"] == "1"
            assert (await client.next())["pos"] == "2"


async def test_the_token_may_come_in_a_header_or_in_hello() -> None:
    async with running_edge() as edge:
        headers = {"Authorization": f"Bearer {token('bob')}"}
        async with connect(edge.websocket_url, subprotocols=[JSON], additional_headers=headers) as socket:
            assert (await JsonClient(socket).next())["user_id"] == "bob"
        async with connect(edge.websocket_url, subprotocols=[JSON]) as socket:
            client = JsonClient(socket)
            await client.send("hello", token=token("carol"))
            assert (await client.next())["user_id"] == "carol"


async def test_protobuf_clients_get_protobuf() -> None:
    async with running_edge() as edge:
        url = f"{edge.websocket_url}?token={token()}"
        async with connect(url, subprotocols=[PROTO]) as socket:
            request = messaging_service_pb2.SendMessageRequest(to="bob", client_id="c", text="hello")
            frame = frames_pb2.ClientFrame(type="send_message", id="1", payload=request.SerializeToString())
            await socket.send(frame.SerializeToString())
            answers = [frames_pb2.ServerFrame.FromString(await socket.recv(decode=False)) for _ in range(3)]
    assert sorted(answer.type for answer in answers) == ["ack", "connected", "synced"]


async def test_a_client_that_offers_no_subprotocol_speaks_json() -> None:
    async with running_edge() as edge, connect(f"{edge.websocket_url}?token={token()}") as socket:
        assert socket.subprotocol is None
        assert (await JsonClient(socket).next())["type"] == "connected"


async def test_a_client_that_offers_only_what_we_do_not_speak_is_refused() -> None:
    async with running_edge() as edge:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(edge.websocket_url, subprotocols=[Subprotocol("soap")])
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda: "nonsense", "BAD_TOKEN"),
        (lambda: token(ttl_s=-1), "EXPIRED_TOKEN"),
        (lambda: token(cluster="elsewhere"), "BAD_TOKEN"),
        (lambda: token(device_id=""), "BAD_TOKEN"),
    ],
)
async def test_a_token_that_does_not_hold_gets_an_error_and_4100(given: Callable[[], str], reason: str) -> None:
    async with running_edge() as edge, connect(f"{edge.websocket_url}?token={given()}", subprotocols=[JSON]) as socket:
        client = JsonClient(socket)
        assert (await client.next())["reason"] == reason
        assert (await client.closed())[0] == 4100


async def test_a_client_that_says_nothing_is_refused() -> None:
    async with (
        running_edge(EdgeSettings(max_connections=100, hello_timeout_s=0.05, tick_s=0.01)) as edge,
        connect(edge.websocket_url, subprotocols=[JSON]) as socket,
    ):
        client = JsonClient(socket)
        assert (await client.next())["reason"] == "NO_CREDENTIALS"
        assert (await client.closed())[0] == 4100


async def test_more_connections_than_allowed_are_turned_away() -> None:
    async with running_edge(EdgeSettings(max_connections=1)) as edge:
        async with json_client(edge):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(f"{edge.websocket_url}?token={token()}")
            assert refused.value.response.status_code == 503
            assert edge.server.metrics.rejected == 1
        await edge.mesh.until("RemoveConnections")
        async with json_client(edge):
            pass


def handshake(user_id: str) -> bytes:
    """What a client says before its first frame."""
    return (
        f"GET /ws?token={token(user_id)} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


async def read_to_the_end(raw: bytes, address: str) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    return said


async def test_the_registration_of_a_client_that_breaks_off_is_given_up() -> None:
    async with running_edge() as edge:
        given_up = asyncio.Event()

        async def never(request: object, caller: object) -> Message:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
            raise AssertionError("unreachable")

        edge.mesh.handlers["RegisterConnection"] = never
        opened = await connect(f"{edge.websocket_url}?token={token()}")
        await edge.mesh.until("RegisterConnection")
        opened.transport.abort()
        async with asyncio.timeout(30):
            await given_up.wait()
        await edge.mesh.until("RemoveConnections")
        assert edge.server.metrics.calls_in_flight() == 0


async def test_a_client_that_was_gone_before_it_was_accepted_is_not_registered() -> None:
    async with running_edge() as edge:
        host, _, port = edge.server.address.rpartition(":")
        with sockets.create_connection((host, int(port))) as gone:  # without giving the edge a turn
            gone.sendall(handshake("alice"))
        await edge.mesh.until("RemoveConnections")
        assert edge.mesh.made("RegisterConnection") == []


async def test_a_head_that_never_ends_is_turned_away() -> None:
    async with running_edge(EdgeSettings(max_connections=1, head_timeout_s=0.2, head_bytes=1500)) as edge:
        assert b" 408 " in await read_to_the_end(b"GET / HTTP/1.1\r\nX: ", edge.server.address)
        assert b" 431 " in await read_to_the_end(b"GET / HTTP/1.1\r\nX: " + b"x" * 1600, edge.server.address)
        async with json_client(edge, device_id="d"):
            assert edge.server.metrics.rejected == 0


async def test_a_second_request_on_a_connection_is_bounded_like_the_first() -> None:
    async with running_edge(EdgeSettings(max_connections=100, head_bytes=500)) as edge:
        first = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
        host, _, port = edge.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(first)
        assert b" 200 " in await reader.readline()
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 600)
        async with asyncio.timeout(30):
            assert b" 431 " in await reader.read()
        writer.close()


async def test_an_upgrade_without_a_key_is_a_bad_request() -> None:
    async with running_edge() as edge:
        raw = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        assert (await read_to_the_end(raw, edge.server.address)).startswith(b"HTTP/1.1 400 ")
        async with json_client(edge):
            assert edge.server.connections == 1


# --- frames ---


async def test_sends_reach_the_mesh_in_the_order_in_which_they_came() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        for number in range(100):
            await client.send("send_message", id=str(number), to="bob", client_id=f"c{number}", text="hello")
        made = await edge.mesh.until("SendMessage", 100)
        assert [one.request.client_id for one in made] == [f"c{number}" for number in range(100)]
        assert all(one.caller == caller() for one in made)
        assert {(await client.next())["type"] for _ in range(100)} == {"ack"}


async def test_an_answer_does_not_wait_for_one_that_takes_longer() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        gate = edge.mesh.hold("SendMessage")
        await client.send("send_message", id="slow", **SEND)
        await client.send("mark_read", id="quick", conversation_id="d.x", seq="1")
        assert (await client.next())["id"] == "quick"
        gate.set()
        assert (await client.next())["id"] == "slow"


async def test_a_fragmented_message_is_put_together() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        await client.socket.send(['{"type":"pi', 'ng","id":', '"1"}'])
        assert await client.next() == {"type": "pong", "id": "1"}


async def test_a_control_frame_of_the_protocol_is_answered() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        async with asyncio.timeout(30):
            await (await client.socket.ping())


async def test_an_oversize_message_closes_with_4103() -> None:
    async with running_edge(ENOUGH) as edge, json_client(edge) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.socket.send("x" * 1_000_000)
        assert (await client.closed())[0] == 4103


async def test_an_oversize_message_is_read_to_its_end_so_that_its_sender_learns_why() -> None:
    async with running_edge(ENOUGH) as edge:
        host, _, port = edge.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(handshake("alice"))
        await reader.readuntil(b'"synced","pos":"0"}')
        writer.write(b"\x81\xff" + struct.pack("!Q", 5_000_000) + b"mask")
        async with asyncio.timeout(30):
            said = await reader.read()
            for _ in range(5000):
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
        assert said[:4] == b"\x88" + bytes([len(said) - 2]) + struct.pack("!H", 4103)
        writer.close()


async def test_fragments_that_are_oversize_together_close_with_4103() -> None:
    async with running_edge(ENOUGH) as edge, json_client(edge) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.socket.send(["x" * 30_000] * 3)
        assert (await client.closed())[0] == 4103


async def test_endless_fragments_close_with_4102() -> None:
    async with running_edge(EdgeSettings(max_connections=100, fragments=10)) as edge, json_client(edge) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.socket.send([""] * 20)
        assert (await client.closed())[0] == 4102


async def test_binary_on_a_json_connection_closes_with_4102() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        await client.socket.send(b"\x00")
        assert (await client.closed())[0] == 4102


async def test_invalid_utf8_closes_with_4102() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        await client.socket.send(b'{"type":"\xff"}', text=True)
        assert (await client.closed())[0] == 4102


@pytest.mark.parametrize(
    "frame",
    [
        b"\x83\x80\x00\x00\x00\x00",  # an opcode that there is not
        b"\x81\x01x",  # not masked
        b"\xc1\x80\x00\x00\x00\x00",  # a reserved bit
        b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
        b"\x01\x80\x00\x00\x00\x00\x81\x80\x00\x00\x00\x00",  # a message within a message
    ],
)
async def test_a_frame_that_is_no_websocket_frame_closes_with_4102(frame: bytes) -> None:
    async with running_edge() as edge, json_client(edge) as client:
        client.socket.transport.write(frame)
        assert (await client.closed())[0] == 4102


async def test_a_client_that_says_goodbye_is_gone_at_once() -> None:
    async with running_edge() as edge:
        async with json_client(edge):
            [connection_id] = await edge.connection_ids()
        await edge.mesh.until("RemoveConnections")
        assert await edge.deliver_message(inbox_message(1), connection_id) == [connection_id]
        assert edge.server.metrics.closes == {1000: 1}


async def test_a_client_that_breaks_off_is_gone_too() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        client.socket.transport.abort()
        [made] = await edge.mesh.until("RemoveConnections")
        assert made.request.connections[0].user_id == "alice"
        assert edge.server.metrics.closes == {1006: 1}


# --- the others ---


async def test_ten_thousand_frames_at_once_cut_their_sender_off_and_no_other_client_notices() -> None:
    async with running_edge() as edge, json_client(edge, "alice") as alice, json_client(edge, "mallory") as mallory:

        async def flood() -> int:
            frame = json.dumps({"type": "send_message", "id": "f", **SEND})
            with contextlib.suppress(websockets.ConnectionClosed):
                for _ in range(10_000):
                    await mallory.socket.send(frame)
            return (await mallory.closed())[0]

        flooding = asyncio.create_task(flood())
        for number in range(50):
            await alice.send("send_message", id=str(number), **SEND)
            answer = await alice.next()
            assert (answer["type"], answer["id"]) == ("ack", str(number))
        assert await flooding == 4102
        assert edge.server.metrics.refused >= 2001


async def test_a_client_that_does_not_read_is_closed_and_the_others_go_on() -> None:
    small = EdgeSettings(max_connections=100, outbox_bytes=100_000, close_timeout_s=0.2)
    async with running_edge(small) as edge, json_client(edge, "alice") as alice, stuck_client(edge.server.address):
        [hers, stuck] = await edge.connection_ids(2)
        await edge.mesh.until("SyncInbox", 2)
        pos, gone = 0, list[int]()
        while not gone:
            pos += 1
            event = inbox_message(pos, "x" * 10_000)
            for user_id in ("alice", "bob"):
                edge.mesh.inboxes[user_id].append(event)
            gone = await edge.deliver_message(event, hers, stuck)
            assert (await alice.next())["pos"] == str(pos)
            assert pos < 5000
        assert gone == [stuck]
        await edge.mesh.until("RemoveConnections")
        assert edge.server.metrics.closes == {4002: 1}


@contextlib.asynccontextmanager
async def stuck_client(address: str) -> AsyncIterator[None]:
    """Bob opens a WebSocket and never reads from it."""
    host, _, port = address.rpartition(":")
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (host, int(port)))
    await loop.sock_sendall(raw, handshake("bob"))
    try:
        yield
    finally:
        raw.close()


# --- the end ---


async def test_a_drain_says_reconnect_lets_answers_out_and_closes_with_4001() -> None:
    async with running_edge() as edge, json_client(edge, "alice") as alice, json_client(edge, "bob") as bob:
        gate = edge.mesh.hold("SendMessage")
        await alice.send("send_message", id="late", **SEND)
        await edge.mesh.until("SendMessage")
        draining = asyncio.create_task(edge.server.drain(5.0))
        told = await bob.next()
        assert told["type"] == "reconnect"
        assert 0 <= told["after_ms"] <= 5000
        assert (await bob.closed())[0] == 4001
        assert (await alice.next())["type"] == "reconnect"
        gate.set()
        assert (await alice.next())["id"] == "late"
        assert (await alice.closed())[0] == 4001
        await draining
        assert edge.server.connections == 0
        assert len(edge.mesh.made("RemoveConnections")) >= 1


async def test_a_resume_token_opens_the_next_connection() -> None:
    mesh = FakeMesh()
    async with running_edge(mesh=mesh) as edge, json_client(edge) as client:
        draining = asyncio.create_task(edge.server.drain(0.2))
        resume = (await client.until("reconnect"))["resume_token"]
        await draining
    async with running_edge(mesh=mesh) as edge, connect(f"{edge.websocket_url}?token={resume}") as socket:
        assert (await JsonClient(socket).next())["user_id"] == "alice"


async def test_while_draining_nobody_new_is_let_in() -> None:
    async with running_edge() as edge, json_client(edge) as client:
        edge.mesh.hold("SendMessage")
        await client.send("send_message", id="1", **SEND)
        await edge.mesh.until("SendMessage")
        draining = asyncio.create_task(edge.server.drain(0.2))
        await client.until("reconnect")
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await connect(edge.websocket_url)
        await draining


async def test_leaving_drops_whoever_is_still_there() -> None:
    async with contextlib.AsyncExitStack() as stack:
        edge_stack = contextlib.AsyncExitStack()
        edge = await edge_stack.enter_async_context(running_edge())
        client = await stack.enter_async_context(json_client(edge))
        await edge_stack.aclose()
        assert (await client.closed())[0] in (0, 1006)


# --- the small print ---


def test_joined_frames_are_websocket_frames() -> None:
    frames = [b"a", b"b" * 126, b"c" * 70_000]
    joined = join_frames(frames, text=False)
    expected = b"\x82\x01a" + b"\x82\x7e" + struct.pack("!H", 126) + frames[1]
    assert joined == expected + b"\x82\x7f" + struct.pack("!Q", 70_000) + frames[2]


def test_a_limit_of_open_files_that_is_too_low_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        most = affordable_connections(EdgeSettings(max_connections=2_000_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most < 2_000_000_000
    assert "RLIMIT_NOFILE" in capsys.readouterr().out
