"""Who calls, as the peer's certificate and a call's metadata say.

The peer is what its certificate names (tls.py), a SERVICE or an ADMIN; no token is needed beside it. Without mTLS it is what
`authorization: Bearer <token>` names, and anonymous without a token. A token beside a certificate must hold too, and never
lifts its bearer: it may name a user, or an operator (ADMIN) if the certificate is an operator's; that of a SERVICE adds
nothing to the certificate of one.

A process of the cluster may add `hither-caller-bin`, a serialised hither.mesh.v1.Caller, to speak for another; so it does for each
call in a relay batch. Nobody speaks for an ADMIN. A process that proved itself with a certificate speaks for a USER
only if it holds clients' connections (`edge`, or `hither`, which runs whole); all others call as the SERVICE that they are, on
behalf of a user. Whatever name such a caller is given, it gets that of the process that speaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError

from discovery.errors import PermissionDenied, Unauthenticated
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.tls import WHOLE
from discovery.rpc.tokens import TokenVerifier
from discovery.rpc.tracing import traceparent
from hither.mesh.v1 import caller_pb2, options_pb2

AUTHORIZATION: Final = "authorization"
CALLER: Final = "hither-caller-bin"
TRACEPARENT: Final = "traceparent"

_BEARER: Final = "bearer "
_WITH_CLIENTS: Final = frozenset({"edge", WHOLE})
"""The processes whose certificates let them speak for users."""
_OWN_WORK: Final = frozenset({Role.ANONYMOUS, Role.SERVICE})
_CLIENTS_WORK: Final = _OWN_WORK | {Role.USER}

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a call: what it proved to be, and the roles of those that it may speak for."""

    caller: Caller
    speaks_for: frozenset[Role] = frozenset()

    def speak_for(self, message: caller_pb2.Caller) -> Caller:
        """The caller in whose name the peer calls. Raises Unauthenticated (BAD_TOKEN) for who is no process of the cluster, and
        PermissionDenied (ACCESS_DENIED) for a role that this process may not speak for.
        """
        if self.caller.role is not Role.SERVICE:
            raise Unauthenticated("only a process of the cluster speaks for others", reason="BAD_TOKEN")
        caller = from_caller_message(message)
        if caller.role not in self.speaks_for:
            raise PermissionDenied(f"this process does not speak for callers of role {caller.role.name}")
        return replace(caller, service=self.caller.service) if caller.role is Role.SERVICE else caller


PROCESS: Final = Peer(Caller(Role.SERVICE), _CLIENTS_WORK)
"""A process of the cluster, whichever it is."""


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


def to_metadata(call: Call, token: str, *, certified: bool = False) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata of a call that this process makes, with its own token (empty: none). `certified`: its certificate proves
    who it is, so that it may say for whom it calls without a token.
    """
    metadata: tuple[tuple[str, str | bytes], ...] = ((TRACEPARENT, traceparent(call)),)
    if token:
        metadata += ((AUTHORIZATION, f"Bearer {token}"),)
    if token or certified:
        metadata += ((CALLER, to_caller_message(call.caller).SerializeToString()),)
    return metadata


def identify(metadata: Metadata, verifier: TokenVerifier | None, certified: Caller | None = None) -> Peer:
    """Who is at the other end, whoever it may speak for. `certified` is whom its certificate names, on a connection with
    mTLS. Raises Unauthenticated (BAD_TOKEN, EXPIRED_TOKEN) for a token that does not hold, PermissionDenied
    (ACCESS_DENIED) for one of another role than the certificate's.
    """
    authorization = dict(metadata).get(AUTHORIZATION)
    named = None if authorization is None else _bearer(authorization, verifier)
    if certified is None:
        caller = named or ANONYMOUS
        return Peer(caller, _CLIENTS_WORK if caller.role is Role.SERVICE else frozenset())
    if named is not None and named.role is Role.USER:
        return Peer(named)
    if named is not None and named.role is not certified.role:
        raise PermissionDenied(f"a token of role {named.role.name} with a certificate of role {certified.role.name}")
    if certified.role is Role.ADMIN:
        return Peer(named or certified)
    return Peer(certified, _CLIENTS_WORK if certified.service in _WITH_CLIENTS else _OWN_WORK)


def authenticate(metadata: Metadata, verifier: TokenVerifier | None, certified: Caller | None = None) -> Caller:
    """Who makes the call: the peer that `identify` finds, or whom it speaks for. Raises as it does and as Peer.speak_for."""
    values = dict(metadata)
    peer = identify(values.items(), verifier, certified)
    claimed = values.get(CALLER)
    if claimed is None:
        return peer.caller
    try:
        message = caller_pb2.Caller.FromString(claimed if isinstance(claimed, bytes) else claimed.encode())
    except DecodeError:
        raise Unauthenticated(f"{CALLER} cannot be read", reason="BAD_TOKEN") from None
    return peer.speak_for(message)


def _bearer(authorization: str | bytes, verifier: TokenVerifier | None) -> Caller:
    text = authorization.decode("ascii", "replace") if isinstance(authorization, bytes) else authorization
    if verifier is None or not text.lower().startswith(_BEARER):
        raise Unauthenticated("authorization takes a bearer token", reason="BAD_TOKEN")
    return verifier.verify(text[len(_BEARER) :].strip())
