"""Requests that wait for their answer: pure, no socket; the time is told.

A request stands here from the moment it is made until it is answered, withdrawn or refused for good. It is written again
after 5 s without an answer, after each reconnect, and when the server said "later". Every frame that a client may send is
idempotent, a message by its client id, so that writing it again is always safe.

Requests of one lane (the messages to one conversation) go one at a time: the next is written when the one before it is
answered. That is what keeps their order when one of them has to be repeated: nothing that was sent later can have been
sequenced before it. Lanes do not wait for each other.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hither_client.backoff import Backoff
from hither_client.errors import RequestFailed

ANSWER_DEADLINE_S = 5.0
"""How long the client waits for an answer before it writes the request again."""


RETRY_LIMIT_S = 5.0
"""Greatest bound of the delay before a request that was refused for now is written again, beside what the server asks for."""


@dataclass(slots=True)
class Request:
    """A frame that has an answer. `lane` empty: its order does not matter. `awaited`: written, and not answered since."""

    id: str
    type: str
    fields: Mapping[str, object]
    lane: str = ""
    due_s: float = 0.0
    awaited: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(limit_s=RETRY_LIMIT_S))


class Outbox:
    """Decides which requests are to be written when. How many there may be is decided by who adds them."""

    def __init__(self, *, answer_deadline_s: float = ANSWER_DEADLINE_S) -> None:
        self._answer_deadline_s = answer_deadline_s
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._lanes: dict[str, deque[Request]] = {}
        self._connected = False

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def add(self, request: Request) -> None:
        """A new request, due at once unless others of its lane stand before it."""
        if request.id in self._requests:
            raise ValueError(f"request {request.id} waits already")
        self._requests[request.id] = request
        if request.lane:
            self._lanes.setdefault(request.lane, deque()).append(request)

    def connected(self) -> None:
        """A connection is ready: everything whose answer is awaited is due anew, in the order in which it was made."""
        self._connected = True
        for request in self._requests.values():
            if request.awaited:
                request.due_s = 0.0

    def disconnected(self) -> None:
        """There is no connection; nothing is due until there is one."""
        self._connected = False

    def due(self, now_s: float) -> list[Request]:
        """What is to be written now, in order. Counts as written."""
        if not self._connected:
            return []
        ready = [request for request in self._heads() if request.due_s <= now_s]
        for request in ready:
            request.awaited = True
            request.due_s = now_s + self._answer_deadline_s
        return ready

    def next_due_s(self) -> float | None:
        """When `due` has something next, on the clock of `due`; None: not before something happens."""
        if not self._connected:
            return None
        return min((request.due_s for request in self._heads()), default=None)

    def answered(self, request_id: str) -> bool:
        """The answer came, or nobody wants it any more. False: nothing was waiting for it."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        if request.lane:
            lane = self._lanes[request.lane]
            lane.remove(request)
            if not lane:
                del self._lanes[request.lane]
        return True

    def failed(self, request_id: str, error: RequestFailed, now_s: float) -> bool:
        """The server refused. True: it will be written again later; False: the refusal is final, the request is forgotten."""
        request = self._requests.get(request_id)
        if request is None:
            return True
        if not error.may_retry:
            self.answered(request_id)
            return False
        request.awaited = False  # it was answered: the next connection changes nothing about the delay
        request.due_s = now_s + request.backoff.next_s(error.retry_after_s or 0.0)
        return True

    def _heads(self) -> list[Request]:
        return [
            request
            for request in self._requests.values()
            if not request.lane or self._lanes[request.lane][0] is request
        ]
