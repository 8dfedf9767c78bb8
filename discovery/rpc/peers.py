"""The calling end between processes: channels to peers, and calls over them with deadline, identity and trace."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import grpc
from google.protobuf.message import Message

from discovery.contract import MethodSpec
from discovery.rpc.call import Call
from discovery.rpc.identity import to_metadata
from discovery.rpc.status import from_grpc

MAX_CHANNELS: Final = 1024
"""Channels to peers that are open at once; the one that was used least recently makes room."""

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A message between processes; far above any single message of the contract, since batches gather many."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)

_Unary = grpc.aio.UnaryUnaryMultiCallable[Message, Message]


@dataclass(slots=True)
class _Peer:
    channel: grpc.aio.Channel
    methods: dict[str, _Unary] = field(default_factory=dict)


class Peers:
    """Channels by address, opened when first needed. `token` gives a SERVICE token of this process; without one it calls
    anonymously.
    """

    def __init__(self, token: Callable[[], str] | None = None, max_channels: int = MAX_CHANNELS) -> None:
        self._token = token
        self._max_channels = max_channels
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, address: str, spec: MethodSpec, request: Message, call: Call) -> Message:
        """The unary call to the peer at host:port. Raises the HitherError that the peer answered with, Unavailable
        (OUTCOME_UNKNOWN) if it cannot be reached, DeadlineExceeded.
        """
        peer = self._peer(address)
        method = peer.methods.get(spec.path)
        if method is None:
            method = peer.methods[spec.path] = peer.channel.unary_unary(
                spec.path,
                request_serializer=spec.request_type.SerializeToString,
                response_deserializer=spec.response_type.FromString,
            )
        try:
            return await method(request, timeout=call.remaining_s(), metadata=self.metadata(call))
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error) from None

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to host:port."""
        return self._peer(address).channel

    def metadata(self, call: Call) -> tuple[tuple[str, str | bytes], ...]:
        """What a call carries beside its request."""
        return to_metadata(call, self._token() if self._token else "")

    async def close(self) -> None:
        """Closes all channels; calls under way are cancelled."""
        peers = list(self._peers.values())
        self._peers.clear()
        await asyncio.gather(*(peer.channel.close() for peer in peers), *self._closing, return_exceptions=True)

    def _peer(self, address: str) -> _Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS))
            if len(self._peers) > self._max_channels:
                self._close_soon(self._peers.popitem(last=False)[1])
        else:
            self._peers.move_to_end(address)
        return peer

    def _close_soon(self, peer: _Peer) -> None:
        # A grace lets the calls that still run over it end; close() waits for what is left.
        task = asyncio.get_running_loop().create_task(peer.channel.close(grace=10.0))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
