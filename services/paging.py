"""Page tokens: where a list goes on, in a form that a client hands back and does not look into.

A token is bound to its list by a checksum, so one that was cut, changed or taken from another list is refused instead
of showing a wrong page. It is no secret and grants nothing: a list decides anew for each page what its caller may see.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import blake2s

from discovery.errors import InvalidArgument, Violation

_CHECKSUM_BYTES = 8
_SEPARATOR = "\0"


def encode_token(list_name: str, *parts: str) -> str:
    """A URL-safe token for the list: about 4/3 of the parts' length and 11 characters.

    `list_name` should name whatever must be the same on every page: the list, its owner and its filter. Parts may be
    empty; raises ValueError if one holds a NUL.
    """
    if any(_SEPARATOR in part for part in parts):
        raise ValueError("a part of a page token holds a NUL")
    payload = _SEPARATOR.join(parts).encode()
    return urlsafe_b64encode(_checksum(list_name, payload) + payload).decode().rstrip("=")


def decode_token(list_name: str, token: str, parts: int) -> tuple[str, ...] | None:
    """The parts that the token was made of; None for the empty token, which stands for the first page.

    Raises InvalidArgument (BAD_PAGE_TOKEN) if the token was not made by encode_token for this list, or has another
    number of parts.
    """
    if not token:
        return None
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (Base64Error, ValueError):
        raise _bad_token() from None
    checksum, payload = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    # The decoder skips foreign characters and spare bits: only the one spelling that was handed out is taken.
    spelled_alike = urlsafe_b64encode(raw).decode().rstrip("=") == token
    if not spelled_alike or checksum != _checksum(list_name, payload):
        raise _bad_token()
    found = tuple(payload.decode().split(_SEPARATOR))
    if len(found) != parts:
        raise _bad_token()
    return found


def _checksum(list_name: str, payload: bytes) -> bytes:
    return blake2s(list_name.encode() + b"\0" + payload, digest_size=_CHECKSUM_BYTES, person=b"hi-page").digest()


def _bad_token() -> InvalidArgument:
    return InvalidArgument(
        "The page token was not made for this list.",
        reason="BAD_PAGE_TOKEN",
        violations=(Violation("page_token", "must be empty or a next_page_token of the same list"),),
    )
