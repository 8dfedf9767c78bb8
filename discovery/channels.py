"""Routed typed stubs: a channel on which the generated stubs make their calls, and that hands each to the mesh.

To a stub it looks like grpc.aio.Channel, as far as unary calls go: `MessagingServiceStub(channel).SendMessage(request,
timeout=1.0)`. Errors are HitherErrors, never gRPC's.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from google.protobuf.message import Message


class Calls(Protocol):
    """Makes a routed call in this process's own name."""

    def __call__(self, method: str, request: Message, timeout_s: float | None) -> Awaitable[Message]:
        """Calls "/package.Service/Method"; None means the usual deadline."""


class RoutedChannel:
    """Gives a generated stub its callables. Streams do not route: opening one raises NotImplementedError."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Message], bytes] | None = None,
        response_deserializer: Callable[[bytes], Message] | None = None,
        _registered_method: bool = False,
    ) -> "RoutedCallable":
        """The callable of a unary method. Serialisation is the mesh's business: in one process there is none."""
        return RoutedCallable(self._calls, method)

    def unary_stream(self, method: str, *_: object, **__: object) -> Callable[..., Awaitable[Message]]:
        """Streams do not route."""
        return _no_stream(method)

    stream_unary = unary_stream
    stream_stream = unary_stream


class RoutedCallable:
    """One unary method of a stub."""

    __slots__ = ("_calls", "_method")

    def __init__(self, calls: Calls, method: str) -> None:
        self._calls = calls
        self._method = method

    def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> Awaitable[Message]:
        """Calls it; `timeout` in seconds. Identity and trace come from the current call, so metadata is refused."""
        if metadata:
            raise ValueError("the mesh carries identity and trace itself; there is no other metadata")
        return self._calls(self._method, request, timeout)


def _no_stream(method: str) -> Callable[..., Awaitable[Message]]:
    def refuse(*_: object, **__: object) -> Awaitable[Message]:
        raise NotImplementedError(f"{method} is a stream, and streams do not route")

    return refuse
