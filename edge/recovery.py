"""Which inbox events one client gets, so that their places are always contiguous: what it missed, page by page, then live.

During a recovery, live events are not queued: only the highest place that was announced is remembered, and the pages go
on until they have reached it. A live event that leaves a gap starts a recovery again, which the client does not notice:
it had been told that it is complete, and what it has is. Pure: fed with pages, places and the time.
"""

from collections import deque
from enum import Enum, auto
from typing import Final

from edge.settings import EdgeSettings
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2


class Verdict(Enum):
    """What to do with a live event."""

    SEND = auto()
    DROP = auto()
    """The client has it, or a page will bring it."""
    RECOVER = auto()
    """Events before it are missing; pages will bring them and it."""


_SEND: Final = Verdict.SEND


class Step(Enum):
    """What a recovery needs next."""

    WAIT = auto()
    """A page is on its way, or the time for the next attempt has not come."""
    EMIT = auto()
    """`next_event` has one."""
    ASK = auto()
    """Ask for the page after `pos`, then call `asked`."""
    DONE = auto()
    """All is sent; call `finish`."""


class Recovery:
    """The inbox of one connection. Starts as a recovery from `pos`."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self.pos = 0
        """The last place that the client was sent, or its cursor."""
        self.live = False
        self._announced = 0
        self._known_when_asked = 0
        self._page: deque[messaging_pb2.InboxEvent] = deque()
        self._must_ask = True
        self._asking = False
        self._not_before_s = 0.0
        self._wait_s = settings.sync_retry_s
        self._recheck_s: float | None = None
        self._progress = True
        self._again = False

    def arrive(self, pos: int) -> Verdict:
        """A live event with a place is here. After SEND it counts as sent."""
        if not self.live:
            self._announced = max(self._announced, pos)
            return Verdict.DROP
        if pos <= self.pos:
            return Verdict.DROP
        if pos == self.pos + 1:
            self.pos = pos
            if pos >= self._announced:
                self._recheck_s = None
            return _SEND
        self._announced = max(self._announced, pos)
        self._begin()
        return Verdict.RECOVER

    def step(self, now_s: float) -> Step:
        """What is to be done now."""
        if self.live:
            return Step.WAIT
        if self._page:
            return Step.EMIT
        if self._asking or now_s < self._not_before_s:
            return Step.WAIT
        if self._must_ask or (self._announced > self.pos and self._promising):
            return Step.ASK
        return Step.DONE

    @property
    def _promising(self) -> bool:
        """Whether another page may bring what was announced: the last one brought something, or was read before the news."""
        return self._progress or self._announced > self._known_when_asked

    def look_again(self) -> None:
        """Events may have come that nobody was told of: reads on from where the client is, also after a page that is on its way."""
        self._again = self._asking
        self._begin()

    def asked(self) -> None:
        """The page after `pos` is on its way."""
        self._asking = True
        self._again = False
        self._known_when_asked = self._announced

    def take_page(self, page: messaging_service_pb2.SyncInboxResponse) -> None:
        """The page is here."""
        self._asking = False
        self._wait_s = self._settings.sync_retry_s
        self._page.extend(page.events)
        self._must_ask = page.more or self._again
        self._progress = page.next_pos > self.pos

    def fail(self, now_s: float) -> None:
        """The page did not come: asks again later, ever more patiently."""
        self._asking = False
        self._must_ask = True
        self._postpone(now_s)

    def next_event(self) -> messaging_pb2.InboxEvent | None:
        """The next event of the page; None if the client has it already. An event without a place is always sent."""
        event = self._page.popleft()
        if event.pos == 0:
            return event
        if event.pos <= self.pos:
            return None
        self.pos = event.pos
        return event

    def finish(self, now_s: float) -> None:
        """Everything there is has been sent: live from now on. If an announced event was not in the inbox, looks again later."""
        self.live = True
        if self._announced > self.pos:
            self._recheck_s = now_s + self._wait_s
            self._wait_s = min(self._wait_s * 2, self._settings.sync_retry_max_s)
        else:
            self._recheck_s = None
            self._wait_s = self._settings.sync_retry_s

    def tick(self, now_s: float) -> bool:
        """Whether it is time to look again for an announced event that the inbox did not have."""
        if self._recheck_s is None or now_s < self._recheck_s:
            return False
        self._recheck_s = None
        self._begin()
        return True

    def deadline_s(self) -> float:
        """When `step` or `tick` may have something to do by time alone; infinity if never."""
        if not self.live and not self._asking and self._must_ask and not self._page:
            return self._not_before_s
        return float("inf") if self._recheck_s is None else self._recheck_s

    def _begin(self) -> None:
        self.live = False
        self._must_ask = True
        self._progress = True

    def _postpone(self, now_s: float) -> None:
        self._not_before_s = now_s + self._wait_s
        self._wait_s = min(self._wait_s * 2, self._settings.sync_retry_max_s)
