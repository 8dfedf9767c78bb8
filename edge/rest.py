"""A REST request as a call to the mesh, and its outcome as an answer.

Decides what HTTP means here: which route, whose token, what an error looks like. Reads no socket and starts no task;
edge/http.py is its shell.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from discovery.contract import MethodSpec
from discovery.errors import HitherError, InvalidArgument, Unauthenticated
from discovery.rpc.call import ANONYMOUS, Caller
from discovery.rpc.status import http_code, to_status
from edge.addresses import AddressLimiter
from edge.codec.json import encode_message, parse_json, to_json
from edge.transcoding import Match, MethodNotAllowed, RouteTable, read_request
from hither.mesh.v1 import options_pb2

_JSON = "application/json"
_QUERY_PARAMETERS = 200


class Calls(Protocol):
    """What REST needs of the gateway to the mesh."""

    def authenticate(self, token: str) -> Caller:
        """Whom a token names. Raises Unauthenticated."""

    async def call(self, spec: MethodSpec, request: Message, caller: Caller) -> Message:
        """Calls the method's owner within the gateway's deadline. Raises HitherError only."""


class BodyTooLarge(InvalidArgument):
    """The body is larger than this server reads."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on: its route, what its path says, and who asks."""

    match: Match
    caller: Caller

    @property
    def operation(self) -> str:
        """The name of the RPC."""
        return self.match.route.spec.name


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Rest:
    """The operations of the contract that have a route."""

    def __init__(self, calls: Calls, table: RouteTable, limiter: AddressLimiter) -> None:
        self._calls = calls
        self._table = table
        self._limiter = limiter

    def admit(self, http_method: str, raw_path: str, authorization: str | None, address: str) -> Admitted:
        """Judges a request by its head, before its body is read.

        A token counts only where one is needed: one that has run out must not keep its owner from getting the next.
        Raises NotFound, MethodNotAllowed, Unauthenticated, or ResourceExhausted for a public change too many.
        """
        match = self._table.match(http_method, raw_path)
        if match.route.spec.access != options_pb2.ACCESS_PUBLIC:
            return Admitted(match, self._calls.authenticate(bearer_token(authorization)))
        if match.route.http_method != "GET":
            self._limiter.take(address)
        return Admitted(match, ANONYMOUS)

    async def perform(self, admitted: Admitted, query: bytes, body: bytes) -> Answer:
        """Makes the call. Raises HitherError."""
        request = read_request(admitted.match, parse_query(query), parse_body(body))
        response = await self._calls.call(admitted.match.route.spec, request, admitted.caller)
        return Answer(200, to_json(encode_message(response)), _private())


def bearer_token(authorization: str | None) -> str:
    """The token of an Authorization header. Raises Unauthenticated: NO_CREDENTIALS without one, BAD_TOKEN for another scheme."""
    if authorization is None:
        raise Unauthenticated("this operation needs a bearer token")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the Authorization header must be: Bearer TOKEN", reason="BAD_TOKEN")
    return token.strip()


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The parameters of a query string, decoded, in order. Raises InvalidArgument if it is not UTF-8 or far too long."""
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_QUERY_PARAMETERS
        )
    except ValueError:
        raise InvalidArgument("the query cannot be decoded", reason="MALFORMED_FRAME") from None


def parse_body(body: bytes) -> object | None:
    """The JSON of a body, None if it is empty. Raises InvalidArgument."""
    if not body:
        return None
    value = parse_json(body)
    if value is None:
        raise InvalidArgument("the body must be a JSON object", reason="MALFORMED_FRAME")
    return value


def failed(error: HitherError) -> Answer:
    """An error as its Status in JSON, under the HTTP status of its code."""
    body = MessageToDict(to_status(error), preserving_proto_field_name=True)
    headers = _private()
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, BodyTooLarge):
        headers["Connection"] = "close"  # the rest of the body will not be read
    return Answer(status_of(error), to_json(body), headers)


def status_of(error: HitherError) -> int:
    """The HTTP status: that of the error's code, except where HTTP has a word of its own."""
    if isinstance(error, MethodNotAllowed):
        return 405
    if isinstance(error, BodyTooLarge):
        return 413
    return http_code(error)


def _private() -> dict[str, str]:
    return {"Content-Type": _JSON, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
