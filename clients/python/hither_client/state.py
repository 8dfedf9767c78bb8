"""The client without a socket and without a clock: frames, losses and the time go in; frames, events and answers come out.

`connection.py` is the shell that reads, writes and waits; every decision is made here. Times are seconds of one monotonic clock.
"""

import enum
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from hither_client.backoff import Backoff
from hither_client.codec import (
    Ok,
    Pong,
    Reconnect,
    Refusal,
    ServerFrame,
    SyncPage,
    encode_frame,
)
from hither_client.errors import ProtocolFailure, RequestFailed, connection_ended, request_failed
from hither_client.event_queue import EventQueue
from hither_client.inbox import Inbox
from hither_client.models import (
    Ack,
    Connected,
    ConversationsPage,
    Disconnected,
    Event,
    HistoryPage,
    LiveLocations,
    LiveLocationStarted,
    Presences,
    ServerError,
    Synced,
    place,
)
from hither_client.outbox import Outbox, Request
from hither_client.watches import Watches

Reply: TypeAlias = Ack | ConversationsPage | HistoryPage | LiveLocations | LiveLocationStarted | Presences | Ok

_R = TypeVar("_R", Ack, ConversationsPage, HistoryPage, LiveLocations, LiveLocationStarted, Ok, Presences)

_PROTOCOL_FAILURE = 4102
_SYNC_PREFIX = "sync-"
_BAD_TOKEN = 4100
_NO_RETURN = range(4100, 4200)
_TELLS = 64
_MISSED_HEARTBEATS = 2


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How patient a client is, and how much it holds."""

    queue_limit: int = 1000
    """Events that wait for the application; beyond that they stay on the server and are fetched when there is room."""
    unanswered_limit: int = 256
    """Requests that wait for an answer; beyond that the next `send` waits for one of them."""
    answer_deadline_s: float = 5.0
    """After this long without an answer a request is written again."""
    first_retry_s: float = 1.0
    """Bound of the delay before the first attempt to reconnect; doubles with each."""
    retry_limit_s: float = 30.0
    """Greatest bound of the delay between attempts to reconnect."""
    connect_timeout_s: float = 10.0
    """For the opening handshake, and again for the server's `connected`."""
    write_timeout_s: float = 10.0
    """A write that takes longer means that the connection is dead."""
    close_timeout_s: float = 2.0
    """For the closing handshake."""
    sync_page: int = 100
    """Events that are asked for at once."""


class Phase(enum.Enum):
    """Where the connection stands."""

    OFFLINE = "offline"
    OPENING = "opening"
    READY = "ready"


class ClientState:
    """What one device knows about its connection, its inbox and its open requests."""

    def __init__(
        self,
        settings: ClientSettings,
        *,
        cursor: int | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.phase = Phase.OFFLINE
        self.welcome: Connected | None = None
        self.queue = EventQueue(settings.queue_limit)
        self.inbox = Inbox(cursor)
        self.outbox = Outbox(answer_deadline_s=settings.answer_deadline_s)
        self.watches = Watches(settings.answer_deadline_s)
        self._settings = settings
        self._backoff = Backoff(settings.first_retry_s, settings.retry_limit_s, uniform=uniform)
        self._sync_backoff = Backoff(settings.first_retry_s, settings.retry_limit_s, uniform=uniform)
        self._answers: list[tuple[str, Reply | RequestFailed]] = []
        self._tells: deque[bytes] = deque(maxlen=_TELLS)
        self._resume_token = ""
        self._resuming = False
        self._notice: Reconnect | None = None
        self._hello = b""
        self._heard_s = 0.0
        self._ping_due_s = 0.0
        self._taken = 0
        self._acknowledged = 0
        self._received_due_s = 0.0
        self._synced_pos: int | None = None
        self._recovering = False
        self._sync_id = ""
        self._syncs = 0
        self._sync_due_s = 0.0

    # The connection's life

    def opening(self, access_token: str, now_s: float) -> None:
        """A socket is open: `hello` is due, with the resume token if the server has given one."""
        self.phase = Phase.OPENING
        self._heard_s = now_s
        self._resuming = bool(self._resume_token)
        fields: dict[str, object] = {"token": self._resume_token or access_token}
        if self.inbox.last is not None:
            fields["cursor"] = str(self.inbox.last)
        self._resume_token = ""
        self._hello = encode_frame("hello", fields)

    def lost(self, code: int, reason: str) -> float:
        """The connection, or the attempt at one, is over. Seconds until the next attempt; raises ConnectionEnded if none is due."""
        was_resuming, self._resuming = self._resuming and self.phase is not Phase.READY, False
        self.phase = Phase.OFFLINE
        self.outbox.disconnected()
        self._tells.clear()
        self._hello = b""
        self._sync_id = ""
        if code in _NO_RETURN and not (code == _BAD_TOKEN and was_resuming):
            raise connection_ended(code, reason)
        delay_s = 0.0 if code == _BAD_TOKEN else self._delay_s()
        self.queue.put(Disconnected(code, reason, delay_s))
        return delay_s

    def _delay_s(self) -> float:
        notice, self._notice = self._notice, None
        return self._backoff.next_s(notice.after_ms / 1000 if notice else 0.0)

    def why_dead(self, now_s: float) -> str:
        """Why this connection should be given up now; empty: it should not."""
        silence_s = now_s - self._heard_s
        if self.phase is Phase.OPENING and silence_s >= self._settings.connect_timeout_s:
            return "the server did not say who we are"
        if self.phase is Phase.READY and silence_s >= _MISSED_HEARTBEATS * self._heartbeat_s:
            return "the server missed two heartbeats"
        return ""

    @property
    def _heartbeat_s(self) -> float:
        heartbeat_ms = self.welcome.heartbeat_ms if self.welcome else 0
        return (heartbeat_ms or 30_000) / 1000

    # What the user asks for

    def add(self, request: Request) -> None:
        """A request: written when a connection is ready, and again until it is answered."""
        self.outbox.add(request)

    def withdraw(self, request_id: str) -> None:
        """Nobody waits for the answer any more."""
        self.outbox.answered(request_id)

    def tell(self, frame_type: str, fields: Mapping[str, object]) -> None:
        """A frame without an answer, which is dropped where there is no connection."""
        if self.phase is Phase.READY:
            self._tells.append(encode_frame(frame_type, fields))

    def take_event(self) -> Event:
        """The next event for the application; raises KeyError if there is none. Makes room for what the inbox holds back."""
        event = self.queue.take()
        self._hand_out(self.inbox.release(self.queue.room))
        return event

    def taken(self, pos: int) -> None:
        """The application is through with everything up to `pos`: the server may be told."""
        self._taken = max(self._taken, pos)

    def take_answers(self) -> list[tuple[str, Reply | RequestFailed]]:
        """Answers and final refusals that have come since the last call, by request id."""
        answers, self._answers = self._answers, []
        return answers

    # What is to be written

    def outgoing(self, now_s: float) -> list[bytes]:
        """The frames to write now, in order."""
        if self.phase is Phase.OPENING and self._hello:
            hello, self._hello = self._hello, b""
            return [hello]
        if self.phase is not Phase.READY:
            return []
        frames = [encode_frame(request.type, request.fields, request.id) for request in self.outbox.due(now_s)]
        for request_id, conversation_id in self.watches.due(now_s):
            frames.append(encode_frame("watch_live_location", {"conversation_id": conversation_id}, request_id))
        frames += self._tells
        self._tells.clear()
        if self._taken > self._acknowledged and self._received_due_s <= now_s:
            self._acknowledged = self._taken
            frames.append(encode_frame("received", {"pos": str(self._taken)}))
        if self._wants_sync() and self._sync_due_s <= now_s:
            frames.append(self._sync_frame(now_s))
        if self._ping_due_s <= now_s:
            self._ping_due_s = now_s + self._heartbeat_s
            frames.append(encode_frame("ping", {"timestamp": round(now_s * 1000)}))
        return frames

    def next_wake_s(self) -> float:
        """When `outgoing` or `why_dead` has something to say next, if nothing else happens before."""
        if self.phase is Phase.OFFLINE:
            return float("inf")
        if self.phase is Phase.OPENING:
            return self._heard_s + self._settings.connect_timeout_s
        moments = [self._ping_due_s, self._heard_s + _MISSED_HEARTBEATS * self._heartbeat_s]
        if (due_s := self.outbox.next_due_s()) is not None:
            moments.append(due_s)
        if (due_s := self.watches.next_due_s()) is not None:
            moments.append(due_s)
        if self._taken > self._acknowledged:
            moments.append(self._received_due_s)
        if self._wants_sync():
            moments.append(self._sync_due_s)
        return min(moments)

    def _wants_sync(self) -> bool:
        return self.inbox.behind and not self._recovering and self.queue.room > 0

    def _sync_frame(self, now_s: float) -> bytes:
        self._syncs += 1
        self._sync_id = f"{_SYNC_PREFIX}{self._syncs}"
        self._sync_due_s = now_s + self._settings.answer_deadline_s
        limit = min(self._settings.sync_page, self.queue.room)
        return encode_frame("sync", {"pos": str(self.inbox.last or 0), "limit": limit}, self._sync_id)

    # What arrives

    def receive(self, frame: ServerFrame, now_s: float) -> None:
        """A frame came."""
        self._heard_s = now_s
        match frame.body:
            case Connected() as welcome:
                self._welcomed(welcome, now_s)
            case Synced(pos=pos):
                self._recovering = False
                self._backoff.reset()
                self.inbox.note_end(pos)
                self._synced_pos = pos
                self._hand_out([])
            case LiveLocations(sessions=sessions) if conversation_id := self.watches.answered(frame.id, now_s):
                self.queue.put(LiveLocations(sessions, conversation_id))
            case (
                Ack()
                | ConversationsPage()
                | HistoryPage()
                | LiveLocations()
                | LiveLocationStarted()
                | Presences()
                | Ok()
            ) as reply:
                if self.outbox.answered(frame.id):
                    self._answers.append((frame.id, reply))
            case Refusal() as refusal:
                self._refused(frame.id, refusal, now_s)
            case SyncPage() as page:
                self._page_came(frame.id, page, now_s)
            case Reconnect() as notice:
                self._notice = notice
                self._resume_token = notice.resume_token
            case Pong():
                pass
            case event:
                self._event_came(event)

    def _welcomed(self, welcome: Connected, now_s: float) -> None:
        self.phase = Phase.READY
        self.welcome = welcome
        self._ping_due_s = now_s + self._heartbeat_s
        self._acknowledged = 0  # what was told to the connection before may not have arrived
        self._received_due_s = 0.0
        self._recovering = True
        self._sync_due_s = 0.0
        self.inbox.start(welcome.pos)
        self.outbox.connected()
        self.watches.connected()
        self.queue.put(welcome)

    def _event_came(self, event: Event) -> None:
        if place(event):
            self._hand_out(self.inbox.offer(event, self.queue.room))
        else:
            self.queue.put(event)

    def _page_came(self, frame_id: str, page: SyncPage, now_s: float) -> None:
        if frame_id != self._sync_id:
            return
        before = self.inbox.last
        self._hand_out(self.inbox.offer_page(page.events, page.next_pos, self.queue.room, more=page.more))
        for event in page.events:
            if not place(event):
                self.queue.put(event)
        if self.inbox.last != before:
            self._sync_backoff.reset()
            self._sync_due_s = 0.0
        else:  # a page that brings us no further must not be asked for in a tight loop
            self._sync_due_s = now_s + self._sync_backoff.next_s()

    def _refused(self, frame_id: str, refusal: Refusal, now_s: float) -> None:
        retry_after_s = None if refusal.retry_after_ms is None else refusal.retry_after_ms / 1000
        if frame_id and frame_id == self._sync_id:
            self._sync_due_s = now_s + self._sync_backoff.next_s(retry_after_s or 0.0)
            return
        error = request_failed(
            refusal.code,
            refusal.reason,
            refusal.message,
            retry_after_s=retry_after_s,
            violations=[{"field": one.field, "description": one.description} for one in refusal.violations],
        )
        if self.watches.refused(frame_id, now_s, may_retry=error.may_retry) and error.may_retry:
            return
        if frame_id in self.outbox:
            if not self.outbox.failed(frame_id, error, now_s):
                self._answers.append((frame_id, error))
            return
        if not frame_id:  # it may have been our `received`, which has no id: say it again later
            self._acknowledged = 0
            self._received_due_s = now_s + max(retry_after_s or 0.0, self._settings.answer_deadline_s)
        self.queue.put(ServerError(refusal.code, refusal.reason, refusal.message, refusal.retry_after_ms))

    def _hand_out(self, events: list[Event]) -> None:
        for event in events:
            self.queue.put(event)
        if self._synced_pos is not None and (self.inbox.last or 0) >= self._synced_pos:
            pos, self._synced_pos = self._synced_pos, None
            self.queue.put(Synced(pos))


def expect(reply: Reply, kind: type[_R]) -> _R:
    """The reply, which must be of that kind. Raises ProtocolFailure."""
    if isinstance(reply, kind):
        return reply
    raise ProtocolFailure(_PROTOCOL_FAILURE, f"the server answered with {type(reply).__name__}, not {kind.__name__}")
