"""What clients get wrong, or do on purpose: each gets a typed answer, and nobody else notices."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.people import JSON, PROTO, WAIT_S, Line, Person, line, sign_up
from tests.support.runner import Hither, StartHither


async def answer_to(hither: Hither, person: Person, raw: str) -> dict[str, object]:
    """The error frame that a raw text frame gets, on a connection that afterwards still answers a ping."""
    async with line(hither.websocket_url, person) as opened:
        await opened.socket.send(raw)
        error = await opened.next("error")
        await opened.send("ping", timestamp="still here")
        assert (await opened.next("pong"))["timestamp"] == "still here"
    return error


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        ("{not json", "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ("[1, 2]", "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ("7", "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ('{"id": "1"}', "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ('{"type": 7, "id": "1"}', "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ('{"type": "make_coffee", "id": "1"}', "UNIMPLEMENTED", "UNKNOWN_TYPE"),
        (
            '{"type": "typing", "id": "1", "conversation_id": "d.x", "colour": "red"}',
            "INVALID_ARGUMENT",
            "UNKNOWN_FIELD",
        ),
        ('{"type": "typing", "id": "1", "conversation_id": 7}', "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        (
            '{"type": "history", "id": "1", "conversation_id": "d.x", "limit": "many"}',
            "INVALID_ARGUMENT",
            "MALFORMED_FRAME",
        ),
        (
            '{"type": "history", "id": "1", "conversation_id": "d.x", "limit": -1}',
            "INVALID_ARGUMENT",
            "MALFORMED_FRAME",
        ),
        (
            '{"type": "history", "id": "1", "conversation_id": "d.x", "limit": 1000}',
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
        ),
        (
            '{"type": "history", "id": "1", "conversation_id": "spaces are not ids"}',
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
        ),
        ('{"type": "send_message", "id": "1", "to": "x", "client_id": "c"}', "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ('{"type": "set_presence", "id": "1", "status": "SLEEPING"}', "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ('{"type": "location_update", "id": "1", "lat": 91, "lng": 0}', "INVALID_ARGUMENT", "INVALID_REQUEST"),
    ],
)
async def test_a_bad_frame_gets_a_typed_error_and_the_connection_stays(
    hither: Hither, http: httpx.AsyncClient, raw: str, code: str, reason: str
) -> None:
    error = await answer_to(hither, await sign_up(http, "mallory"), raw)
    assert (error["code"], error["reason"]) == (code, reason)


async def test_an_error_repeats_the_id_of_its_request(hither: Hither, http: httpx.AsyncClient) -> None:
    error = await answer_to(hither, await sign_up(http, "mallory"), '{"type": "make_coffee", "id": "cup-7"}')
    assert error["id"] == "cup-7"


async def test_sending_into_a_conversation_of_others_is_refused(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob, mallory = [await sign_up(http, name) for name in ("alice", "bob", "mallory")]
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, mallory) as theirs:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c", text="private")
        sent = await theirs.ask("send_message", conversation_id=ack["conversation_id"], client_id="c", text="me too")
        read = await theirs.ask("history", conversation_id=ack["conversation_id"], limit=5)
    assert (sent["code"], sent["reason"]) == ("PERMISSION_DENIED", "NOT_A_MEMBER")
    assert (read["code"], read["reason"]) == ("PERMISSION_DENIED", "NOT_A_MEMBER")


async def test_sending_to_nobody_is_refused(hither: Hither, http: httpx.AsyncClient) -> None:
    alice = await sign_up(http, "alice")
    async with line(hither.websocket_url, alice) as hers:
        refused = await hers.ask("send_message", to="no-such-user", client_id="c", text="anyone?")
    assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "NO_SUCH_USER")


async def ended_by_close(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes until the server closes the connection, whatever the code."""
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            yield await socket.recv()


async def test_binary_where_text_is_due_closes_with_4102(hither: Hither, http: httpx.AsyncClient) -> None:
    async with line(hither.websocket_url, await sign_up(http, "mallory")) as opened:
        await opened.socket.send(b"\x00\x01")
        assert (await opened.closed())[0] == 4102


async def test_text_where_binary_is_due_closes_with_4102(hither: Hither, http: httpx.AsyncClient) -> None:
    mallory = await sign_up(http, "mallory")
    async with connect(f"{hither.websocket_url}?token={mallory.token}", subprotocols=[PROTO]) as socket:
        await socket.send('{"type": "ping"}')
        async with asyncio.timeout(WAIT_S):
            frames = [frame async for frame in ended_by_close(socket)]
    assert all(isinstance(frame, bytes) for frame in frames)
    assert socket.close_code == 4102


async def test_invalid_utf8_closes_with_4102(hither: Hither, http: httpx.AsyncClient) -> None:
    async with line(hither.websocket_url, await sign_up(http, "mallory")) as opened:
        await opened.socket.send(b'{"type": "\xff\xfe"}', text=True)
        assert (await opened.closed())[0] == 4102


async def test_an_oversize_frame_closes_with_4103(hither: Hither, http: httpx.AsyncClient) -> None:
    async with line(hither.websocket_url, await sign_up(http, "mallory")) as opened:
        await opened.socket.send("x" * 1_000_000)
        assert (await opened.closed())[0] == 4103


async def refusal_of(hither: Hither, token: str) -> tuple[int, str]:
    """Close code and reason for a connection opened with the token."""
    async with connect(f"{hither.websocket_url}?token={token}", subprotocols=[JSON]) as socket:
        opened = Line(socket)
        error = await opened.next("error")
        code, _ = await opened.closed()
    return code, error["reason"]


async def test_a_token_that_has_run_out_is_refused(hither: Hither, http: httpx.AsyncClient) -> None:
    mallory = await sign_up(http, "mallory")
    claims = jwt.decode(mallory.token, options={"verify_signature": False})
    key = (hither.data / "keys" / "signing.pem").read_text()
    expired = jwt.encode({**claims, "exp": claims["iat"] - 1}, key, algorithm="EdDSA")
    assert await refusal_of(hither, expired) == (4100, "EXPIRED_TOKEN")


async def test_a_token_that_is_none_is_refused(hither: Hither) -> None:
    assert await refusal_of(hither, "not.a.token") == (4100, "BAD_TOKEN")


async def test_a_token_signed_by_nobody_is_refused(hither: Hither, http: httpx.AsyncClient) -> None:
    claims = jwt.decode((await sign_up(http, "mallory")).token, options={"verify_signature": False})
    assert await refusal_of(hither, jwt.encode(claims, "", algorithm="none")) == (4100, "BAD_TOKEN")


async def test_a_token_of_another_cluster_is_refused(hither: Hither, start_hither: StartHither, tmp_path: Path) -> None:
    async with start_hither(tmp_path / "other") as other:
        foreign = await other.token("alice", "phone")
    assert await refusal_of(hither, foreign) == (4100, "BAD_TOKEN")


async def test_a_connection_that_says_no_hello_is_closed_with_4100(start_hither: StartHither, tmp_path: Path) -> None:
    async with (
        start_hither(tmp_path / "data", {"HITHER_EDGE_HELLO_TIMEOUT_S": "0.2"}) as hither,
        connect(hither.websocket_url, subprotocols=[JSON]) as socket,
    ):
        opened = Line(socket)
        assert (await opened.next("error"))["reason"] == "NO_CREDENTIALS"
        assert (await opened.closed())[0] == 4100


async def test_a_token_may_come_in_hello_or_in_a_header(hither: Hither, http: httpx.AsyncClient) -> None:
    alice = await sign_up(http, "alice")
    async with connect(hither.websocket_url, subprotocols=[JSON]) as socket:
        opened = Line(socket)
        await opened.send("hello", token=alice.token)
        assert (await opened.next("connected"))["user_id"] == alice.user_id
    header = {"Authorization": f"Bearer {alice.token}"}
    async with connect(hither.websocket_url, subprotocols=[JSON], additional_headers=header) as socket:
        assert (await Line(socket).next("connected"))["device_id"] == "phone"


async def test_rest_without_or_with_a_bad_token_is_unauthenticated(hither: Hither, http: httpx.AsyncClient) -> None:
    none = await http.get("/api/v1/friends")
    bad = await http.get("/api/v1/friends", headers={"authorization": "Bearer nonsense"})
    assert (none.status_code, none.json()["details"][0]["reason"]) == (401, "NO_CREDENTIALS")
    assert (bad.status_code, bad.json()["details"][0]["reason"]) == (401, "BAD_TOKEN")


async def test_ten_thousand_frames_at_once_are_refused_and_no_other_client_notices(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob, mallory = [await sign_up(http, name) for name in ("alice", "bob", "mallory")]

    async def flood() -> tuple[set[str], int]:
        async with line(hither.websocket_url, mallory) as theirs:
            frame = json.dumps({"type": "send_message", "id": "f", "to": bob.user_id, "client_id": "c", "text": "spam"})
            with contextlib.suppress(websockets.ConnectionClosed):  # being cut off is the right answer
                for _ in range(10_000):
                    await theirs.socket.send(frame)
            code, _ = await theirs.closed()
            return {frame["reason"] for frame in theirs._kept if frame["type"] == "error"}, code

    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        flooding = asyncio.create_task(flood())
        for number in range(50):
            ack = await hers.ask("send_message", to=bob.user_id, client_id=f"c{number}", text=f"m{number}")
            assert ack["type"] == "ack"
            assert (await his.next("message"))["type"] == "message"
        reasons, code = await flooding
    assert "RATE_LIMITED" in reasons
    assert code == 4102
