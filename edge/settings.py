"""Settings of the edge: where it listens, and how much one client may ask of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Units stand in the names. All limits are for one connection unless said otherwise."""

    max_connections: int = 50_000
    """Open client connections of this edge, WebSocket and HTTP together; more are refused with 503."""
    backlog: int = 4096
    """Connections that the kernel may hold before they are accepted."""
    reuse_port: bool = False
    """Shares the port with other processes that do: the kernel spreads new connections over them."""
    head_bytes: int = 16_384
    """The largest head (first line and headers) of a request."""
    head_timeout_s: float = 10.0
    """How long the head of a connection's first request may take to arrive, in seconds."""
    request_timeout_s: float = 30.0
    """How long any HTTP request may take to arrive, body included, in seconds."""
    keep_alive_s: float = 15.0
    """How long an idle HTTP connection is kept, in seconds."""
    frame_bytes: int = 65_536
    """The largest message from a client, all its fragments together; a larger one closes with 4103."""
    fragments: int = 1024
    """Fragments of one message; more close with 4102."""
    early_frames: int = 64
    """Frames that wait for the connection to be registered; further ones are refused."""
    hello_timeout_s: float = 5.0
    """How long a connection without a token may take to say hello, in seconds."""
    heartbeat_s: float = 30.0
    """How often a client should be heard, in seconds. Two missed heartbeats close the connection."""
    frames_per_s: float = 200.0
    """Frames that are let through each second, steadily."""
    frames_burst: int = 400
    """Frames that are let through at once."""
    refusals_per_s: float = 10.0
    """Answers to refused frames each second; further refused frames are only counted."""
    refused_frames: int = 2000
    """Refused frames within `refused_window_s`; more close with 4102."""
    refused_window_s: float = 10.0
    """See `refused_frames`, in seconds."""
    calls_in_flight: int = 256
    """Requests whose answers are awaited; more are refused with OVERLOADED."""
    edge_calls_in_flight: int = 20_000
    """The same for all connections of the edge together."""
    call_timeout_s: float = 5.0
    """How long a call into the mesh may take, in seconds."""
    outbox_bytes: int = 1_048_576
    """Bytes that wait to be sent; durable events beyond close with 4002."""
    write_high_water_bytes: int = 65_536
    """Bytes that the transport may hold; above it frames wait in the outbox."""
    sync_page: int = 500
    """Events asked for at once during a recovery."""
    sync_retry_s: float = 0.5
    """First wait after a recovery that failed, in seconds; doubles up to `sync_retry_max_s`."""
    sync_retry_max_s: float = 10.0
    """See `sync_retry_s`."""
    close_timeout_s: float = 2.0
    """How long a client may take to answer a close frame, in seconds."""
    renew_s: float = 30.0
    """How often all connections are renewed in the session registry, in seconds, give or take a tenth; less than half of how long
    it knows them."""
    report_s: float = 10.0
    """How often the connected devices are reported to presence, in seconds."""
    registry_timeout_s: float = 5.0
    """How long one call to the session registry or to presence may take, in seconds."""
    tick_s: float = 0.1
    """How exact deadlines of connections are, in seconds."""
