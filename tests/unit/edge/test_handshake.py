import pytest

from edge.codec.proto import BINARY
from edge.codec.text import TEXT
from edge.handshake import BadHandshake, head_length, is_websocket, terms

UPGRADE = b"GET /ws?token=x HTTP/1.1\r\nHost: h\r\nUPGRADE: WebSocket\r\n\r\n"


def test_a_get_of_our_path_with_an_upgrade_is_a_websocket() -> None:
    assert is_websocket(UPGRADE)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ws HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"GET /wsx HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_anything_else_is_http(head: bytes) -> None:
    assert not is_websocket(head)


def test_a_head_ends_with_its_empty_line() -> None:
    assert head_length(UPGRADE[:-1]) == 0
    assert head_length(UPGRADE + b"body") == len(UPGRADE)


def test_the_first_subprotocol_that_we_speak_is_taken() -> None:
    agreed = terms(b"/ws", "soap, hither.v1.proto, hither.v1.json", "")
    assert (agreed.codec, agreed.subprotocol) == (BINARY, "hither.v1.proto")


def test_who_offers_no_subprotocol_speaks_json() -> None:
    agreed = terms(b"/ws", "", "")
    assert (agreed.codec, agreed.subprotocol) == (TEXT, "")


def test_subprotocols_that_we_do_not_speak_are_refused() -> None:
    with pytest.raises(BadHandshake):
        terms(b"/ws", "soap", "")


def test_token_and_cursor_come_from_the_query() -> None:
    agreed = terms(b"/ws?token=a.b&cursor=12", "", "Bearer other")
    assert (agreed.token, agreed.cursor) == ("a.b", 12)


def test_the_token_may_come_from_the_authorization_header() -> None:
    assert terms(b"/ws", "", "bearer a.b").token == "a.b"
    assert terms(b"/ws", "", "Basic a.b").token == ""


@pytest.mark.parametrize("cursor", ["", "-1", "1e3", "x", "9223372036854775808", "99999999999999999999", "%D9%A1"])
def test_a_cursor_that_is_no_place_is_refused(cursor: str) -> None:
    with pytest.raises(BadHandshake):
        terms(f"/ws?cursor={cursor}".encode(), "", "")
