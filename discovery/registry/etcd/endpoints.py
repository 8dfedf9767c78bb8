"""The members of an etcd cluster as this process reaches them: a channel for each, and the one that is asked next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
from etcd.api.etcdserverpb import rpc_pb2_grpc

_CHANNEL_OPTIONS: Final = (
    # etcd hangs up on clients that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """PEM files' contents. Without `ca` the machine's own authorities are trusted; a certificate and its key are shown to
    an etcd that asks for them.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


class Endpoint:
    """One member."""

    def __init__(self, target: str, tls: EtcdTls | None) -> None:
        self.target = target
        if tls is None:
            self.channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self.channel = grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self.kv = rpc_pb2_grpc.KVStub(self.channel)
        self.lease = rpc_pb2_grpc.LeaseStub(self.channel)
        self.watch = rpc_pb2_grpc.WatchStub(self.channel)
        self.auth = rpc_pb2_grpc.AuthStub(self.channel)


class Endpoints:
    """All members, and which of them is asked: always the same one until somebody reports that it failed."""

    def __init__(self, addresses: Sequence[str], tls: EtcdTls | None) -> None:
        if not addresses:
            raise ValueError("etcd needs an endpoint")
        self._all = [_endpoint(address, tls) for address in addresses]
        self._at = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def current(self) -> Endpoint:
        """The one to ask."""
        return self._all[self._at]

    def failed(self, endpoint: Endpoint) -> None:
        """The next one is asked from now on, unless somebody else has reported this one already."""
        if endpoint is self.current:
            self._at = (self._at + 1) % len(self._all)

    async def close(self) -> None:
        """Hangs up. May be called twice."""
        for endpoint in self._all:
            await endpoint.channel.close()


def _endpoint(address: str, tls: EtcdTls | None) -> Endpoint:
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"an etcd endpoint is host:port, http://host:port or https://host:port, not {address!r}")
    if scheme == "http" and tls is not None:
        raise ValueError(f"{address} is not to be reached by TLS")
    if scheme == "https" and tls is None:
        tls = EtcdTls()
    return Endpoint(rest.rstrip("/"), tls)
