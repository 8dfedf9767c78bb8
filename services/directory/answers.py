"""Mutations under a caller-chosen id: done once, answered alike each time."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TypeVar

from google.protobuf.message import Message

from services.directory.errors import invalid_field
from services.directory.model import Answer, AnswerKey
from services.directory.ports import Tables

M = TypeVar("M", bound=Message)


async def once(
    tables: Tables, key: AnswerKey, request: Message, now_ms: int, make: Callable[[], Awaitable[M]], kind: type[M]
) -> M:
    """What `make` answers, or what it answered before under this key; kept in the transaction that `tables` belongs to.

    Without a request id it is simply made. Raises InvalidArgument if the id was used with another request.
    """
    if not key.request_id:
        return await make()
    earlier = await find(tables, key, request, kind)
    if earlier is not None:
        return earlier
    response = await make()
    await tables.answers.add(key, Answer(_digest(request), response.SerializeToString(), now_ms))
    return response


async def find(tables: Tables, key: AnswerKey, request: Message, kind: type[M]) -> M | None:
    """The answer that is kept under the key; None without one. Raises InvalidArgument if it answers another request."""
    stored = await tables.answers.find(key) if key.request_id else None
    if stored is None:
        return None
    if stored.request_digest != _digest(request):
        raise invalid_field("request_id", "was used with another request")
    return kind.FromString(stored.response)


def _digest(request: Message) -> bytes:
    """Tells requests apart, by all but their secrets, of which nothing may be stored."""
    open_part = type(request)()
    open_part.CopyFrom(request)
    for field in request.DESCRIPTOR.fields:
        if field.GetOptions().debug_redact:
            open_part.ClearField(field.name)
    return sha256(open_part.SerializeToString(deterministic=True)).digest()
