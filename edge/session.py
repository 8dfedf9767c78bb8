"""One client's connection, without a socket, a clock or a task: frames, events, answers and ticks in; frames and calls out.

    GREETING --token--> REGISTERING --registered--> OPEN --> CLOSED
       |                     |                        |
       +---------------------+------------------------+--> CLOSED

While OPEN, `Recovery` says which inbox events the client gets; `synced` is sent once, when the first recovery is complete.
Frames leave through the outbox. Whoever feeds a session looks at `take_calls` and `closing` afterwards. All times are
monotonic seconds.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from google.protobuf.message import Message

from discovery.contract import MethodSpec, methods
from discovery.errors import HitherError, InvalidArgument, ResourceExhausted, Unauthenticated, Unavailable
from discovery.rpc.call import Caller, Role
from edge.codec.frames import BadFrame, Codec, Hello, Incoming, Ping, Request, SharedEvent
from edge.limits import Admission, FrameLimit
from edge.metrics import EdgeMetrics
from edge.outbox import Outbox, Put
from edge.recovery import Recovery, Step, Verdict
from edge.settings import EdgeSettings
from hither.edge.v1 import frames_pb2
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from hither.sessions.v1 import sessions_pb2, sessions_service_pb2

_REGISTER: Final = "/hither.sessions.v1.SessionsService/RegisterConnection"
_SYNC: Final = "/hither.messaging.v1.MessagingService/SyncInbox"
_OVERLOADED_RETRY_S: Final = 1.0


class CloseCode:
    """Why the server closes. Below 4100 the client is to come back, with backoff; from 4100 on it is not."""

    TRY_LATER = 4000
    DRAINING = 4001
    SLOW_CONSUMER = 4002
    IDLE = 4003
    BAD_TOKEN = 4100
    REPLACED = 4101
    PROTOCOL_ERROR = 4102
    TOO_LARGE = 4103


@dataclass(frozen=True, slots=True)
class Close:
    """The connection ends with this close frame, after the frames that wait (unless `code` is SLOW_CONSUMER)."""

    code: int
    reason: str


class Purpose(Enum):
    """What a call is for."""

    REQUEST = auto()
    REGISTER = auto()
    SYNC = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make in this caller's name. Calls of one session are to be started in their order."""

    purpose: Purpose
    spec: MethodSpec
    request: Message
    caller: Caller
    id: str = ""


class Phase(Enum):
    """See the module."""

    GREETING = auto()
    REGISTERING = auto()
    OPEN = auto()
    CLOSED = auto()


# Looking an enum's member up costs more than what is done with it on the way on which events for thousands go.
_OPEN: Final = Phase.OPEN
_SEND: Final = Verdict.SEND
_QUEUED: Final = Put.QUEUED


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of an edge share."""

    edge_id: str
    settings: EdgeSettings
    metrics: EdgeMetrics
    authenticate: Callable[[str], Caller]
    """Who a token names; raises HitherError."""


class Session:
    """See the module. `open` is to be called first."""

    def __init__(self, connection_id: int, codec: Codec, surroundings: Surroundings, now_s: float) -> None:
        settings = surroundings.settings
        self.connection_id = connection_id
        self.codec = codec
        self.outbox = Outbox(settings.outbox_bytes)
        self.phase = Phase.GREETING
        self.caller: Caller | None = None
        self.closing: Close | None = None
        self._shared = surroundings
        self._settings = settings
        self._metrics = surroundings.metrics
        self._limit = FrameLimit(settings, now_s)
        self._recovery = Recovery(settings)
        self.calls: list[Call] = []
        """What `take_calls` will give."""
        self._early: deque[bytes] = deque()
        self._early_bytes = 0
        self._in_flight = 0
        self.registered = False
        """Whether the registry has taken the connection. One that is open without it is to be renewed soon."""
        self._given_cursor: int | None = None
        self._synced = False
        self._draining = False
        self._heard_s = now_s
        self._greet_by_s = now_s + settings.hello_timeout_s

    # --- what goes out ---

    def take_calls(self) -> list[Call]:
        """The calls to make now, in order."""
        calls, self.calls = self.calls, []
        return calls

    @property
    def caught_up(self) -> bool:
        """No recovery is under way that waits for room in the outbox."""
        return self._recovery.live

    @property
    def is_open(self) -> bool:
        """The client has been told `connected`, and not yet goodbye."""
        return self.phase is Phase.OPEN

    @property
    def quiet(self) -> bool:
        """Nobody waits for anything: no answer is due and no frame waits."""
        return not self._in_flight and not self.outbox

    @property
    def connection(self) -> sessions_pb2.Connection | None:
        """How the registry knows the connection; None before it knows its user."""
        if self.caller is None:
            return None
        return sessions_pb2.Connection(
            user_id=self.caller.user_id,
            device_id=self.caller.device_id,
            edge_id=self._shared.edge_id,
            connection_id=self.connection_id,
        )

    # --- what the client does ---

    def open(self, token: str, cursor: int | None) -> None:
        """The client is here, with the token and cursor of its address or headers; without a token it must say hello."""
        if token:
            self._greet(token, cursor, "")

    def receive(self, data: bytes, *, text: bool, now_s: float) -> None:
        """A whole message from the client."""
        if self.phase is Phase.CLOSED:
            return
        self._heard_s = now_s
        self._metrics.bytes_in += len(data)
        if text is not self.codec.text:
            kind = "text" if self.codec.text else "binary"
            self._close(CloseCode.PROTOCOL_ERROR, f"{self.codec.subprotocol} takes {kind} messages")
            return
        if text and not _is_utf8(data):
            self._close(CloseCode.PROTOCOL_ERROR, "not UTF-8")
            return
        if self._admit(data, now_s):
            self._take(data, now_s)

    def touch(self, now_s: float) -> bool:
        """A control frame from the client: it is alive. Counts as a frame; False if it is to be ignored."""
        self._heard_s = now_s
        return self.phase is not Phase.CLOSED and self._admit(b"", now_s)

    def violate(self, code: int, reason: str) -> None:
        """The client broke the protocol below the frames."""
        self._close(code, reason)

    # --- what the mesh says ---

    def answer(self, call: Call, response: Message, now_s: float) -> None:
        """A call has succeeded."""
        if self.phase is Phase.CLOSED:
            return
        if call.purpose is Purpose.REQUEST:
            self._in_flight -= 1
            if not call.spec.one_way:
                self._send(call.spec.reply, call.id, response)
        elif call.purpose is Purpose.REGISTER:
            assert isinstance(response, sessions_service_pb2.RegisterConnectionResponse)  # the method's response
            self.registered = True
            self._registered(response.cursor if self._given_cursor is None else self._given_cursor, now_s)
        else:
            assert isinstance(response, messaging_service_pb2.SyncInboxResponse)  # the method's response
            self._recovery.take_page(response)
            self._recover(now_s)

    def fail(self, call: Call, error: HitherError, now_s: float) -> None:
        """A call has failed."""
        if self.phase is Phase.CLOSED:
            return
        if call.purpose is Purpose.REQUEST:
            self._in_flight -= 1
            self._metrics.call_errors[error.reason] += 1
            self._error(error, call.id)
        elif call.purpose is Purpose.REGISTER:
            self._not_registered(error, now_s)
        else:
            self._recovery.fail(now_s)

    def deliver(self, event: SharedEvent, pos: int, conflation_key: str, now_s: float) -> None:
        """An event for this client. Who delivers it counts it: this is the way on which an event for thousands goes."""
        if self.phase is not _OPEN:
            if pos and self.phase is Phase.REGISTERING:
                self._recovery.arrive(pos)
            return
        if pos:
            verdict = self._recovery.arrive(pos)
            if verdict is Verdict.RECOVER:
                self._metrics.recoveries += 1
                self._recover(now_s)
            if verdict is not _SEND:
                return
        put = self.outbox.put(event.at(pos), "" if pos else conflation_key)
        if put is not _QUEUED:
            self._account(put)

    def look_again(self, now_s: float) -> None:
        """Events of the inbox may have come that the connection was not told of."""
        if self.phase is _OPEN:
            self._recovery.look_again()
            self._recover(now_s)

    def evict(self, code: int, reason: str) -> None:
        """The mesh wants the connection closed."""
        self._close(code, reason)

    # --- what time and the shell do ---

    def drained(self, now_s: float) -> None:
        """Frames have left the outbox: a recovery that waited for room goes on."""
        if self.phase is Phase.OPEN and not self._recovery.live and not self.outbox.more_than_half_full:
            self._recover(now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        if self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.GREETING:
            if now_s >= self._greet_by_s:
                self._refuse(Unauthenticated("no hello came in time"), "")
        elif now_s - self._heard_s >= 2 * self._settings.heartbeat_s:
            self._close(CloseCode.IDLE, "two heartbeats missed")
        elif self.phase is Phase.OPEN:
            self._recovery.tick(now_s)
            self._recover(now_s)

    def deadline_s(self) -> float:
        """When `tick` may next have something to do."""
        if self.phase is Phase.CLOSED:
            return float("inf")
        if self.phase is Phase.GREETING:
            return self._greet_by_s
        idle_s = self._heard_s + 2 * self._settings.heartbeat_s
        return min(idle_s, self._recovery.deadline_s()) if self.phase is Phase.OPEN else idle_s

    def drain(self, after_ms: int, resume_token: str) -> None:
        """The edge is going: sends the client elsewhere. Requests that come from now on are refused; answers still go out."""
        if self.phase is Phase.CLOSED or self._draining:
            return
        self._draining = True
        if self.caller is not None:
            self._send("reconnect", "", frames_pb2.Reconnect(after_ms=after_ms, resume_token=resume_token))

    def end_drain(self) -> None:
        """The edge goes now."""
        self._close(CloseCode.DRAINING, "the server is draining")

    # --- greeting ---

    def _greet(self, token: str, cursor: int | None, id_: str) -> None:
        try:
            caller = self._shared.authenticate(token)
        except HitherError as error:
            self._refuse(error, id_)
            return
        self.caller = caller
        self._given_cursor = cursor
        self.phase = Phase.REGISTERING
        connection = self.connection
        assert connection is not None  # the caller is set
        request = sessions_service_pb2.RegisterConnectionRequest(connection=connection)
        edge = Caller(Role.SERVICE, caller.user_id, caller.device_id, self._shared.edge_id)
        self.calls.append(Call(Purpose.REGISTER, methods()[_REGISTER], request, edge))

    def _registered(self, cursor: int, now_s: float) -> None:
        assert self.caller is not None  # set before it was registered
        self.phase = Phase.OPEN
        self._recovery.pos = cursor
        connected = frames_pb2.Connected(
            status="ready",
            user_id=self.caller.user_id,
            device_id=self.caller.device_id,
            edge_id=self._shared.edge_id,
            pos=cursor,
            heartbeat_ms=round(self._settings.heartbeat_s * 1000),
        )
        self._send("connected", "", connected)
        self._recover(now_s)
        self._early_bytes = 0
        while self._early and self.phase is Phase.OPEN:
            self._take(self._early.popleft(), now_s)

    def _not_registered(self, error: HitherError, now_s: float) -> None:
        """Without the registry a connection that brought its cursor can live; the next renewal registers it."""
        if isinstance(error, Unavailable) and self._given_cursor is not None:
            self._registered(self._given_cursor, now_s)
            return
        self._error(error, "")
        lasting = isinstance(error, ResourceExhausted) and error.reason == "QUOTA_EXCEEDED"
        self._close(CloseCode.BAD_TOKEN if lasting else CloseCode.TRY_LATER, "not registered")

    def _refuse(self, error: HitherError, id_: str) -> None:
        self._error(error, id_)
        self._close(CloseCode.BAD_TOKEN, error.reason)

    # --- frames ---

    def _admit(self, data: bytes, now_s: float) -> bool:
        admission = self._limit.admit(now_s)
        if admission is Admission.PASS:
            return True
        self._metrics.refused += 1
        if admission is Admission.CUT_OFF:
            self._close(CloseCode.PROTOCOL_ERROR, "far too many frames")
        elif admission is Admission.REFUSE:
            wait_s = self._limit.retry_after_s()
            error = ResourceExhausted("too many frames", reason="RATE_LIMITED", retry_after_s=wait_s)
            self._error(error, self.codec.id_of(data) if data else "")
        return False

    def _take(self, data: bytes, now_s: float) -> None:
        if self.phase is Phase.REGISTERING:
            self._keep(data)
            return
        try:
            incoming = self.codec.decode(data)
        except BadFrame as bad:
            self._metrics.frames_in["unknown"] += 1
            if self.phase is Phase.GREETING:
                self._refuse(Unauthenticated("the first frame must be hello"), bad.id)
            else:
                self._error(bad.error, bad.id)
            return
        self._act(incoming, now_s)

    def _act(self, incoming: Incoming, now_s: float) -> None:
        if isinstance(incoming, Hello):
            self._metrics.frames_in["hello"] += 1
            if self.phase is Phase.GREETING:
                self._greet(incoming.token, incoming.cursor, incoming.id)
            else:
                self._error(InvalidArgument("the connection is open already"), incoming.id)
        elif self.phase is Phase.GREETING:
            self._refuse(Unauthenticated("the first frame must be hello"), getattr(incoming, "id", ""))
        elif isinstance(incoming, Ping):
            self._metrics.frames_in["ping"] += 1
            self._put("pong", incoming.pong)
        else:
            self._request(incoming)

    def _request(self, request: Request) -> None:
        assert self.caller is not None  # the connection is open
        self._metrics.frames_in[request.spec.frame] += 1
        if self._draining:
            error: HitherError = Unavailable(
                "the server is draining", reason="DRAINING", retry_after_s=_OVERLOADED_RETRY_S
            )
            self._error(error, request.id)
        elif self._in_flight >= self._settings.calls_in_flight:
            error = ResourceExhausted("too many requests wait for their answers", retry_after_s=_OVERLOADED_RETRY_S)
            self._error(error, request.id)
        else:
            self._in_flight += 1
            self.calls.append(Call(Purpose.REQUEST, request.spec, request.message, self.caller, request.id))

    def _keep(self, data: bytes) -> None:
        """Frames that come before the connection is registered wait for it."""
        self._early_bytes += len(data)
        if len(self._early) < self._settings.early_frames and self._early_bytes <= self._settings.frame_bytes:
            self._early.append(data)
            return
        self._early_bytes -= len(data)
        error = ResourceExhausted("wait for the frame `connected`", retry_after_s=_OVERLOADED_RETRY_S)
        self._error(error, self.codec.id_of(data))

    # --- recovery ---

    def _recover(self, now_s: float) -> None:
        """Goes on as far as it can: until a page is to be awaited, the outbox is half full, or all is sent."""
        recovery = self._recovery
        while self.phase is Phase.OPEN and not recovery.live:
            step = recovery.step(now_s)
            if step is Step.WAIT or (step is not Step.DONE and self.outbox.more_than_half_full):
                return
            if step is Step.EMIT:
                self._emit(recovery.next_event())
            elif step is Step.ASK:
                self._ask()
                return
            else:
                recovery.finish(now_s)
                if not self._synced:
                    self._synced = True
                    self._send("synced", "", frames_pb2.Synced(pos=recovery.pos))

    def _ask(self) -> None:
        assert self.caller is not None  # the connection is open
        request = messaging_service_pb2.SyncInboxRequest(pos=self._recovery.pos, limit=self._settings.sync_page)
        self.calls.append(Call(Purpose.SYNC, methods()[_SYNC], request, self.caller))
        self._recovery.asked()

    def _emit(self, event: messaging_pb2.InboxEvent | None) -> None:
        kind = event.WhichOneof("kind") if event is not None else None
        if event is None or kind is None:
            return
        key = ""
        if kind == "message_status":
            mark = event.message_status
            key = f"sync:{mark.conversation_id}:{mark.user_id}:{mark.status}"
        message: Message = getattr(event, kind)
        self._put(kind, self.codec.event(kind, message).at(event.pos), "" if event.pos else key)

    # --- the rim ---

    def _send(self, type_: str, id_: str, message: Message) -> None:
        self._put(type_, self.codec.frame(type_, id_, message))

    def _error(self, error: HitherError, id_: str) -> None:
        self._put("error", self.codec.error(error, id_))

    def _put(self, type_: str, frame: bytes, key: str = "") -> None:
        self._metrics.frames_out[type_] += 1
        put = self.outbox.put(frame, key)
        if put is not Put.QUEUED:
            self._account(put)

    def _account(self, put: Put) -> None:
        """Takes the consequences for a frame that did not just queue."""
        if put is Put.OVERFLOW:
            self._close(CloseCode.SLOW_CONSUMER, "the client reads too slowly")
        elif put is Put.CONFLATED:
            self._metrics.conflated += 1
        else:
            self._metrics.dropped += 1

    def _close(self, code: int, reason: str) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self.closing = Close(code, reason)
        self.calls.clear()
        self._early.clear()
        if code == CloseCode.SLOW_CONSUMER:
            self.outbox.clear()


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
