"""Who calls, as it stands in a call's metadata.

`authorization: Bearer <token>` names the caller. A process of the cluster (a SERVICE token) may add `hither-caller-bin`, a
serialised hither.mesh.v1.Caller, to speak for a user. No token means an anonymous caller.
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from discovery.errors import Unauthenticated
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.tokens import TokenVerifier
from discovery.rpc.tracing import traceparent
from hither.mesh.v1 import caller_pb2, options_pb2

AUTHORIZATION: Final = "authorization"
CALLER: Final = "hither-caller-bin"
TRACEPARENT: Final = "traceparent"

_BEARER: Final = "bearer "

Metadata = Iterable[tuple[str, str | bytes]]


def to_caller_message(caller: Caller) -> caller_pb2.Caller:
    """The caller as a message."""
    return caller_pb2.Caller(
        role=caller.role.value, user_id=caller.user_id, device_id=caller.device_id, service=caller.service
    )


def from_caller_message(message: caller_pb2.Caller) -> Caller:
    """The caller that the message describes; one of no known role is anonymous."""
    if message.role in (options_pb2.ACCESS_UNSPECIFIED, options_pb2.ACCESS_PUBLIC):
        return ANONYMOUS
    try:
        role = Role(message.role)
    except ValueError:
        return ANONYMOUS
    return Caller(role, message.user_id, message.device_id, message.service)


def to_metadata(call: Call, token: str) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata of a call that this process makes, with its own token (empty: none)."""
    metadata: tuple[tuple[str, str | bytes], ...] = ((TRACEPARENT, traceparent(call)),)
    if token:
        caller = to_caller_message(call.caller).SerializeToString()
        metadata += ((AUTHORIZATION, f"Bearer {token}"), (CALLER, caller))
    return metadata


def authenticate(metadata: Metadata, verifier: TokenVerifier | None) -> Caller:
    """Who makes the call. Raises Unauthenticated (BAD_TOKEN, EXPIRED_TOKEN) for a token that does not hold, or a claim to
    speak for somebody from who is no process of the cluster.
    """
    values = dict(metadata)
    authorization = values.get(AUTHORIZATION)
    claimed = values.get(CALLER)
    caller = ANONYMOUS if authorization is None else _bearer(authorization, verifier)
    if claimed is None:
        return caller
    if caller.role is not Role.SERVICE:
        raise Unauthenticated("only a process of the cluster speaks for others", reason="BAD_TOKEN")
    try:
        message = caller_pb2.Caller.FromString(claimed if isinstance(claimed, bytes) else claimed.encode())
    except DecodeError:
        raise Unauthenticated(f"{CALLER} cannot be read", reason="BAD_TOKEN") from None
    return from_caller_message(message)


def _bearer(authorization: str | bytes, verifier: TokenVerifier | None) -> Caller:
    text = authorization.decode("ascii", "replace") if isinstance(authorization, bytes) else authorization
    if verifier is None or not text.lower().startswith(_BEARER):
        raise Unauthenticated("authorization takes a bearer token", reason="BAD_TOKEN")
    return verifier.verify(text[len(_BEARER) :].strip())
