"""A dispatcher whose servicers do as a test says, for any service of the contract."""

import time
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from discovery.contract import MethodSpec, methods
from discovery.rpc.call import Call, Caller
from discovery.rpc.dispatcher import Dispatcher

Handle = Callable[[MethodSpec, Message], Awaitable[Message]]


class Served:
    """Every unary method of the contract, answered by one function; remembers what reached it."""

    def __init__(self, handle: Handle | None = None) -> None:
        self.reached: list[str] = []
        self.dispatcher = Dispatcher()
        self._handle = handle
        for service in {spec.service for spec in methods().values() if not spec.streaming}:
            self.dispatcher.add(self._servicer(service), service)

    async def call(self, spec: MethodSpec, request: Message, caller: Caller, *, timeout_s: float = 5.0) -> Message:
        """Dispatches a call; raises HitherError."""
        call = Call(spec.path, caller, time.monotonic() + timeout_s, trace_id="test")
        return await self.dispatcher.dispatch(spec.path, request, call)

    def _servicer(self, service: str) -> object:
        specs = [spec for spec in methods().values() if spec.service == service]
        return type("Servicer", (), {spec.name: self._method(spec) for spec in specs})()

    def _method(self, spec: MethodSpec) -> Callable[[object, Message, object], Awaitable[Message]]:
        async def method(_self: object, request: Message, _context: object) -> Message:
            self.reached.append(spec.path)
            return spec.response_type() if self._handle is None else await self._handle(spec, request)

        return method
