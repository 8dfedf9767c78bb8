"""The price of a hop: batches of 64 calls over the relay between two processes, beside what gRPC itself can do.

`python -m bench.hop [--seconds 3]` starts the other process, measures and prints. The ceiling is a raw stream that carries the same
bytes ready-made: batches of 64 requests one way, batches of 64 answers back, one batch under way at a time as here. What lies
between is what the relay does for an item on each side: identity, deadline, trace, credit, numbering, and finding its caller again.
On the serving side the relay is measured without the dispatcher (a servicer that answers at once stands behind it), and with it.
A second floor shows what the callers cost by themselves: a task, a future and a deadline for each call, and no stream at all.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import uvloop
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from bench.processes import cpu_s, cpus, machine
from discovery.contract import methods
from discovery.rpc.call import Call, Caller, Role
from discovery.rpc.deadlines import Deadlines
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.link import Pace
from discovery.rpc.peers import Peers
from discovery.rpc.relay import RelaySession
from discovery.rpc.requesting import Requesters
from discovery.rpc.stream_metrics import StreamMetrics
from discovery.rpc.telemetry import CallMetrics
from hither.directory.v1 import directory_service_pb2 as pb
from hither.mesh.v1 import relay_pb2

ITEMS = 64
_RELAY = "/hither.mesh.v1.RelayService/Exchange"
_CEILING = "/bench.Hop/Ceiling"
_GET_USER = "/hither.directory.v1.DirectoryService/GetUser"
_ALICE = Caller(Role.USER, user_id="alice", device_id="phone")
_WARM_UP_S = 0.5
_TRACE = "0af7651916cd43dd8448eb211c80319c"

_Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Side:
    """CPU of each side for an item, in microseconds, and items a second."""

    here_us: float
    there_us: float
    per_s: float


# --- the other process ---


class _Bare(Dispatcher):
    """Answers at once: what is left is the relay."""

    async def dispatch_bytes(self, method: str, payload: bytes, call: Call) -> bytes:
        """See Dispatcher."""
        return b""


class _Users:
    """A servicer that has nothing to do."""

    def __getattr__(self, name: str) -> Callable[[Message, object], Awaitable[Message]]:
        async def answer(_request: Message, _context: object) -> Message:
            return pb.GetUserResponse()

        return answer


class _Handlers(grpc.GenericRpcHandler):
    """The relay over one of the dispatchers, as the metadata says, and the ceiling."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        whole = Dispatcher(metrics=CallMetrics(CollectorRegistry()))
        whole.add(_Users(), "hither.directory.v1.DirectoryService")
        self._dispatchers = {"bare": _Bare(metrics=CallMetrics(CollectorRegistry())), "whole": whole}
        self._group = group
        self._kind = "bare"

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """See grpc."""
        if details.method == _RELAY:
            return grpc.stream_stream_rpc_method_handler(self._relay)
        if details.method == _CEILING:
            return grpc.stream_stream_rpc_method_handler(_echo)
        self._kind = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(_nothing)

    async def _relay(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        session = RelaySession(self._dispatchers[self._kind], self._group, session_id="bench")
        await session.serve(requests, context.write)


async def _nothing(_request: bytes, _context: _Context) -> bytes:
    return b""


async def _echo(requests: AsyncIterator[bytes], context: _Context) -> None:
    answer = relay_pb2.RelayBatch(
        seq=1, envelopes=[relay_pb2.RelayEnvelope(correlation_id=number, response=b"") for number in range(ITEMS)]
    ).SerializeToString()
    async for _ in requests:
        await context.write(answer)


async def serve() -> None:
    """Serves until standard input ends; prints its port first."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    async with asyncio.TaskGroup() as group:
        server.add_generic_rpc_handlers((_Handlers(group),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(0)


# --- this one ---


async def measure(seconds: float) -> dict[str, Side]:
    """One thing after the other, in both processes."""
    here_cpu, there_cpu = cpus()
    there = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.hop", "--serve", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    os.sched_setaffinity(0, {here_cpu})
    os.sched_setaffinity(there.pid, {there_cpu})
    assert there.stdout is not None
    assert there.stdin is not None
    try:
        address = f"127.0.0.1:{int(await there.stdout.readline())}"
        sides = {"ceiling": await _ceiling(address, there.pid, seconds)}
        sides["callers"] = Side(await _callers(seconds), 0.0, 0.0)
        for kind in ("bare", "whole"):
            sides[kind] = await _relayed(address, there.pid, kind, seconds)
    finally:
        there.stdin.close()
        await there.wait()
    return sides


async def _ceiling(address: str, pid: int, seconds: float) -> Side:
    request = relay_pb2.RelayRequest(
        method=_GET_USER,
        payload=pb.GetUserRequest(user_id="bob").SerializeToString(),
        timeout_ms=5000,
        traceparent=f"00-{_TRACE}-b7ad6b7169203331-00",
    )
    request.caller.user_id, request.caller.device_id = "alice", "phone"
    batch = relay_pb2.RelayBatch(
        seq=1, envelopes=[relay_pb2.RelayEnvelope(correlation_id=number, request=request) for number in range(ITEMS)]
    ).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_CEILING)
        stream = method()

        async def once() -> None:
            await stream.write(batch)
            await stream.read()

        side = await _timed(once, pid, seconds)
        stream.cancel()
    return side


async def _callers(seconds: float) -> float:
    deadlines, spec = Deadlines(), methods()[_GET_USER]
    waiting: list[asyncio.Future[bytes]] = []

    async def one() -> None:
        pb.GetUserRequest(user_id="bob").SerializeToString()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.append(answer)
        deadline = deadlines.start(time.monotonic() + 5.0)
        spec.response_type.FromString(await answer)
        deadline.stop()

    async def once() -> None:
        calls = asyncio.gather(*(one() for _ in range(ITEMS)))
        await asyncio.sleep(0)
        for answer in waiting:
            answer.set_result(b"")
        waiting.clear()
        await calls

    return (await _timed(once, os.getpid(), seconds)).here_us


async def _relayed(address: str, pid: int, kind: str, seconds: float) -> Side:
    async with grpc.aio.insecure_channel(address) as channel:
        select: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/bench.Hop/{kind}")
        await select(b"")
    peers = Peers()
    requesters = Requesters(peers, StreamMetrics(), Pace())
    spec = methods()[_GET_USER]

    async def one() -> None:
        call = Call(_GET_USER, _ALICE, time.monotonic() + 5.0, _TRACE)
        await requesters.call(address, spec, pb.GetUserRequest(user_id="bob"), call)

    async def once() -> None:
        await asyncio.gather(*(one() for _ in range(ITEMS)))

    async with asyncio.TaskGroup() as group:
        requesters.own(group)
        side = await _timed(once, pid, seconds)
        await requesters.close()
    await peers.close()
    return side


async def _timed(once: Callable[[], Awaitable[Any]], pid: int, seconds: float) -> Side:
    ends_s = time.monotonic() + _WARM_UP_S
    while time.monotonic() < ends_s:
        await once()
    batches, begun_s, here_s, there_s = 0, time.monotonic(), time.process_time(), cpu_s(pid)
    while time.monotonic() < begun_s + seconds:
        await once()
        batches += 1
    items = batches * ITEMS
    return Side(
        here_us=(time.process_time() - here_s) / items * 1e6,
        there_us=(cpu_s(pid) - there_s) / items * 1e6,
        per_s=items / (time.monotonic() - begun_s),
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.hop", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--serve", action="store_true", help="be the other process")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    print(machine())
    sides = uvloop.run(measure(options.seconds))
    print(f"{'batches of ' + str(ITEMS):44} {'requester':>12} {'server':>12} {'items/s':>10}")
    names = {
        "ceiling": "raw stream, messages ready-made",
        "callers": "callers that wait, no stream",
        "bare": "relay, answered without a dispatcher",
        "whole": "relay and dispatcher, empty servicer",
    }
    for kind, side in sides.items():
        there = f"{side.there_us:9.2f} us {side.per_s:10,.0f}" if side.per_s else ""
        print(f"{names[kind]:44} {side.here_us:9.2f} us {there}")


if __name__ == "__main__":
    main()
