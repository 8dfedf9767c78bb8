"""The call that is being served: who asks, until when, at which place of which trace.

Set by the dispatcher around every servicer method, whichever way the call came (gRPC, relay, or from the same
process), and inherited by the calls that the method makes in turn.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from hither.mesh.v1 import options_pb2


class Role(Enum):
    """What a caller was authenticated as, in the terms of the contract's `access`."""

    ANONYMOUS = options_pb2.ACCESS_PUBLIC
    USER = options_pb2.ACCESS_USER
    SERVICE = options_pb2.ACCESS_SERVICE
    ADMIN = options_pb2.ACCESS_ADMIN


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call. `user_id` and `device_id` are empty unless a user (or a service for a user) calls."""

    role: Role
    user_id: str = ""
    device_id: str = ""
    service: str = ""


ANONYMOUS = Caller(Role.ANONYMOUS)


class Call(NamedTuple):  # made for every call, and a frozen dataclass takes three times as long to make
    """A call in progress. `deadline_s` is on time.monotonic()'s scale; `method` is "/package.Service/Method".

    `trace_id`, `span_id` and `sampled` are its W3C trace context: the trace (32 hexadecimal digits), the span that it comes
    out of (16 hexadecimal digits; empty if there is none), and whether spans are wanted of it.
    """

    method: str
    caller: Caller
    deadline_s: float
    trace_id: str
    span_id: str = ""
    sampled: bool = False

    def remaining_s(self) -> float:
        """Time left, in seconds; zero or less when there is none."""
        return self.deadline_s - time.monotonic()


_current: ContextVar[Call | None] = ContextVar("hither_call", default=None)


def current_call() -> Call:
    """The call that is being served here. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being served")
    return call


def find_call() -> Call | None:
    """The call that is being served here, or None outside of one."""
    return _current.get()


def serve_call(call: Call | None) -> None:
    """Makes `call` the current one for the running task (and the tasks that it will spawn)."""
    _current.set(call)
