"""Puts what arrives into the order of the inbox: pure, no socket, no clock.

Every durable event has a `pos`, contiguous for the user, from 1. The inbox releases events in exactly that order, each
once; what comes early is held (up to a bound), what comes twice is dropped, and a gap shows as `behind`, which the
caller answers with a `sync` from `last`. When there is no room for an event it is not lost: the inbox is simply behind.
"""

from collections import OrderedDict
from collections.abc import Iterable

from hither_client.models import Event, MessageReceived, place


class Inbox:
    """Releases events in order of `pos`, without gaps and doubles.

    `cursor`: the last place that the application has; None: not known, the server's `connected` says.
    `hold_limit`: events kept while a gap before them is open. `remember`: message ids known as seen, a second guard for the case
    that a server begins an inbox anew.
    """

    def __init__(self, cursor: int | None = None, *, hold_limit: int = 1024, remember: int = 4096) -> None:
        self.last = cursor
        self._end = cursor or 0
        self._held: dict[int, Event] = {}
        self._hold_limit = hold_limit
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._remember = remember

    def start(self, pos: int) -> None:
        """The server begins its recovery after `pos`. A place below ours means that it knows no further: believe it."""
        if self.last is None or pos < self.last:
            self.last = pos
            self._end = pos
            self._held.clear()
            return
        self._end = max(self._end, pos)

    def note_end(self, pos: int) -> None:
        """The inbox reaches at least to `pos`."""
        self._end = max(self._end, pos)

    @property
    def behind(self) -> bool:
        """Events after `last` exist that are neither here nor on their way in order."""
        return self.last is not None and self._end > self.last and self.last + 1 not in self._held

    def offer(self, event: Event, room: int) -> list[Event]:
        """An event with a place came. What may be handed out now, in order: at most `room` events."""
        pos = place(event)
        if self.last is None or pos <= self.last:
            return []
        self._end = max(self._end, pos)
        if len(self._held) < self._hold_limit or pos == self.last + 1:
            self._held[pos] = event
        return self.release(room)

    def offer_page(self, events: Iterable[Event], next_pos: int, room: int, *, more: bool) -> list[Event]:
        """The answer to a sync came; what may be handed out now. `next_pos` is the page's last place; with `more` others follow."""
        self.note_end(next_pos + 1 if more else next_pos)
        released: list[Event] = []
        for event in events:
            if place(event):
                released += self.offer(event, room - len(released))
        return released

    def release(self, room: int) -> list[Event]:
        """What may be handed out now that there is room for `room` events."""
        released: list[Event] = []
        while self.last is not None and len(released) < room and (event := self._held.pop(self.last + 1, None)):
            self.last += 1
            if not self._seen_before(event):
                released.append(event)
        return released

    def _seen_before(self, event: Event) -> bool:
        if not isinstance(event, MessageReceived):
            return False
        message_id = event.message.message_id
        if message_id in self._seen:
            self._seen.move_to_end(message_id)
            return True
        self._seen[message_id] = None
        if len(self._seen) > self._remember:
            self._seen.popitem(last=False)
        return False
