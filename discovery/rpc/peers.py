"""The calling end between processes: channels to peers, and what every stream on them says about who calls."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from discovery.rpc.call import Call
from discovery.rpc.identity import to_metadata
from discovery.rpc.tls import Credentials, open_channel

MAX_CHANNELS: Final = 1024
"""Channels to peers that are open at once; the one that was used least recently makes room."""

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A message between processes; far above any single message of the contract, since batches gather many."""

_EVICTED_GRACE_S: Final = 10.0
_PARTED_GRACE_S: Final = 1.0
_REPLACED_GRACE_S: Final = 600.0
"""The longest deadline that a call gets: none is cut because its process got a new certificate."""

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


@dataclass(frozen=True, slots=True)
class _Peer:
    channel: grpc.aio.Channel
    generation: int


class Peers:
    """Channels by address, opened when first needed. With `credentials` they are mTLS, and the certificate says who calls;
    when it has changed, new calls go over new channels, and those under way end where they began, within 600 s. Without
    it, `token` gives a SERVICE token of this process; without either it calls anonymously.
    """

    def __init__(
        self,
        token: Callable[[], str] | None = None,
        max_channels: int = MAX_CHANNELS,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        self._token = token if credentials is None else None
        self._credentials = credentials
        self._max_channels = max_channels
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._closing: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    @property
    def addresses(self) -> frozenset[str]:
        """The peers that there are channels to."""
        return frozenset(self._peers)

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to host:port. It may be another the next time; whoever keeps a stream looks again when it opens one."""
        return self._peer(address).channel

    def metadata(self, call: Call) -> tuple[tuple[str, str | bytes], ...]:
        """What a call carries beside its request."""
        token = self._token() if self._token else ""
        return to_metadata(call, token, certified=self._credentials is not None)

    def part(self, address: str) -> None:
        """The peer has left: closes its channel once the streams on it have had time to end."""
        peer = self._peers.pop(address, None)
        if peer is not None:
            self._close_soon(peer, _PARTED_GRACE_S)

    async def close(self) -> None:
        """Closes all channels; calls under way are cancelled."""
        channels = [peer.channel for peer in self._peers.values()] + list(self._closing.values())
        closing = list(self._closing)
        self._peers.clear()
        for task in closing:
            task.cancel()
        await asyncio.gather(*(channel.close() for channel in channels), *closing, return_exceptions=True)

    def _peer(self, address: str) -> _Peer:
        generation = self._credentials.refresh() if self._credentials else 0
        peer = self._peers.get(address)
        if peer is not None and peer.generation == generation:
            self._peers.move_to_end(address)
            return peer
        channel = open_channel(self._credentials, address, _CHANNEL_OPTIONS)
        fresh = self._peers[address] = _Peer(channel, generation)
        self._peers.move_to_end(address)
        if peer is not None:
            self._close_soon(peer, _REPLACED_GRACE_S)
        if len(self._peers) > self._max_channels:
            self._close_soon(self._peers.popitem(last=False)[1], _EVICTED_GRACE_S)
        return fresh

    def _close_soon(self, peer: _Peer, grace_s: float) -> None:
        # A grace lets the calls that still run over it end; close() cuts what is left.
        task = asyncio.get_running_loop().create_task(_close_after(grace_s, peer.channel))
        self._closing[task] = peer.channel
        task.add_done_callback(self._closing.pop)


async def _close_after(grace_s: float, channel: grpc.aio.Channel) -> None:
    # The channel's own grace cannot be cut short: a channel that is closing takes no second close().
    await asyncio.sleep(grace_s)
    await channel.close()
