"""When a user is woken up, and for which messages: arrivals and times in, pushes out. Pure: it has no clock and no tasks.

Every message that arrives joins a gathering, one for each (user, conversation, kind), and of alerts that name a sender for each
sender too; a gathering becomes one push when it is due:

- A call is due at once, and is bound by no limit.
- A direct message or a mention is due at once too, unless its sender has alerted this user within the last minute: then, with what
  follows it, when the minute is over.
- A group's messages are due five minutes after the first. Once there are ten the push waits no longer than one minute after the
  first: so ten messages are one push, a burst of fifteen within seconds is one "15 new messages" and not a ten and a five, and
  pushes of one group are never less than a minute apart.
- What is not to be shown (the conversation is muted, or it is within quiet hours) is due five minutes after the first, silently:
  a silent push only has the app synchronise, and Apple allows two or three an hour. Mentions in a muted conversation are
  silent too. Calls ring: a caller cannot wait for the morning. Nothing is made up for when quiet hours end: the app has
  its messages and its badge by then, and holding back a night of messages would hold back the log.

Of two alerts for one user within a minute no sender has messages in both, calls excepted: a group's push counts for all whose
messages it stands for. What that holds back goes as soon as it may. If other alerts have come between for ten
minutes, it is sent silently.

Who asks takes in all that there is at hand before asking for what is due, so that messages that come together go together.
Memory is bounded: when the policy is `full`, whoever takes in more is to `expedite` the oldest gatherings first.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.push.arrivals import Arrival, Kind
from services.push.limits import LastAlerts
from services.push.pipeline_settings import PushPolicySettings

EXPIRED: Final = "EXPIRED"
_MOST_OUT_OF_DATE = 1024
_Key = tuple[str, str, Kind, str]
_URGENT = frozenset({Kind.DIRECT, Kind.MENTION, Kind.CALL})


@dataclass(frozen=True, slots=True)
class Plan:
    """A push that is due: for which messages of a conversation a user is woken up now, on every device."""

    partition: int
    offsets: tuple[int, ...]
    """Of the arrivals it stands for, ascending."""
    user_id: str
    conversation_id: str
    kind: Kind
    first_seq: int
    newest: Arrival
    messages: int
    sender_ids: frozenset[str] = frozenset()

    @property
    def silent(self) -> bool:
        """Whether nothing is shown."""
        return self.kind is Kind.SYNC

    @property
    def urgent(self) -> bool:
        """Whether it is to reach the device at once."""
        return self.kind in _URGENT

    @property
    def rings(self) -> bool:
        """Whether it goes through whatever the user has muted."""
        return self.kind is Kind.CALL

    def silenced(self) -> "Plan":
        """The same without showing anything."""
        return replace(self, kind=Kind.SYNC)


@dataclass(slots=True)
class _Gathering:
    key: _Key
    partition: int
    began_ms: int
    due_ms: int
    newest: Arrival
    first_seq: int
    messages: int = 0
    offsets: list[int] = field(default_factory=list)
    sender_ids: set[str] = field(default_factory=set)

    @property
    def kind(self) -> Kind:
        return self.key[2]

    def add(self, arrival: Arrival) -> None:
        if not self.offsets or arrival.seq > self.newest.seq:  # else the log has it twice: messaging was interrupted
            self.messages += 1
            self.newest = arrival
        self.offsets.append(arrival.offset)
        self.sender_ids.add(arrival.sender_id)

    def plan(self) -> Plan:
        user_id, conversation_id, kind, _ = self.key
        offsets, senders = tuple(self.offsets), frozenset(self.sender_ids)
        return Plan(
            self.partition,
            offsets,
            user_id,
            conversation_id,
            kind,
            self.first_seq,
            self.newest,
            self.messages,
            senders,
        )


class Policy:
    """The gatherings of all partitions of a process. Times are milliseconds since 1970."""

    def __init__(self, settings: PushPolicySettings) -> None:
        self._settings = settings
        self._pair_ms = round(settings.pair_interval_s * 1000)
        self._gather_ms = round(settings.group_gather_s * 1000)
        self._longest_ms = round(settings.longest_wait_s * 1000)
        self._gatherings: dict[_Key, _Gathering] = {}
        self._heap: list[tuple[int, int, _Key]] = []
        """When to look at a gathering; entries that are out of date are passed over."""
        self._pushed = 0
        self._held: set[int] = set()
        self._messages = 0
        self.alerts = LastAlerts(settings)

    @property
    def gathered(self) -> int:
        """Messages that wait."""
        return self._messages

    @property
    def full(self) -> bool:
        """Whether the oldest gatherings are to be sent before any more messages are taken in."""
        settings = self._settings
        return self._messages >= settings.most_gathered or len(self._gatherings) >= settings.most_gatherings

    def take(self, arrival: Arrival, now_ms: int, *, silenced: bool) -> str:
        """Takes in an arrival; those of a partition in the order of their offsets. Returns why it is not pushed at all, or "".
        `silenced`: nothing is to be shown of its conversation now.
        """
        age_ms = now_ms - arrival.create_ms
        if age_ms > self._settings.most_age_s * 1000:
            return EXPIRED
        kind = arrival.kind
        if kind is Kind.CALL and age_ms >= self._settings.call_lifetime_s * 1000:
            kind = Kind.DIRECT if arrival.conversation_id.startswith("d.") else Kind.GROUP
        if silenced and kind is not Kind.CALL:
            kind = Kind.SYNC
        sender_id = arrival.sender_id if kind in _URGENT else ""
        key = arrival.user_id, arrival.conversation_id, kind, sender_id
        gathering = self._gatherings.get(key)
        if gathering is None:
            due_ms = self._due_ms(kind, arrival, now_ms)
            gathering = _Gathering(key, arrival.partition, now_ms, due_ms, arrival, arrival.seq)
            self._gatherings[key] = gathering
            self._look_at(gathering)
        gathering.add(arrival)
        self._messages += 1
        if kind is Kind.GROUP and gathering.messages == self._settings.group_messages:
            self._make_due(gathering, max(now_ms, gathering.began_ms + self._pair_ms))
        return ""

    def due(self, now_ms: int, most: int) -> list[Plan]:
        """What is due by now, the oldest first, at most so many. What it returns counts as sent."""
        plans: list[Plan] = []
        put_aside: list[_Gathering] = []
        while len(plans) < most and self._heap and self._heap[0][0] <= now_ms:
            due_ms, _, key = heapq.heappop(self._heap)
            gathering = self._gatherings.get(key)
            if gathering is None or gathering.due_ms != due_ms:
                continue
            if gathering.partition in self._held:
                put_aside.append(gathering)
                continue
            plan = self._release(gathering, now_ms)
            if plan is not None:
                plans.append(plan)
        for gathering in put_aside:
            self._look_at(gathering)
        return plans

    def next_due_ms(self) -> int | None:
        """When to ask again for what is due; None: not before there is something new."""
        while self._heap:
            due_ms, _, key = self._heap[0]
            gathering = self._gatherings.get(key)
            if gathering is not None and gathering.due_ms == due_ms and gathering.partition not in self._held:
                return due_ms
            if gathering is not None and gathering.due_ms == due_ms:
                return min((each.due_ms for each in self._not_held()), default=None)
            heapq.heappop(self._heap)
        return None

    def expedite(self, now_ms: int, messages: int) -> int:
        """Makes the oldest gatherings due, until they stand for so many messages; returns how many were not due before."""
        return self._expedite(sorted(self._gatherings.values(), key=lambda each: each.began_ms), now_ms, messages)

    def expedite_before(self, partition: int, before_offset: int, now_ms: int) -> int:
        """Makes the gatherings due that hold records of the partition before the offset; returns how many were not before."""
        behind = [
            each
            for each in self._gatherings.values()
            if each.partition == partition and each.offsets[0] < before_offset
        ]
        return self._expedite(behind, now_ms, self._messages)

    def hold(self, partition: int) -> None:
        """Has nothing of the partition be due until it is let go: for who is about to take in what was there before."""
        self._held.add(partition)

    def let_go(self, partition: int) -> None:
        """Ends hold()."""
        self._held.discard(partition)

    def forget(self, partition: int) -> None:
        """The partition is another's now: what is gathered of it goes, unsent. Of its last alerts see `alerts`."""
        for gathering in [each for each in self._gatherings.values() if each.partition == partition]:
            self._remove(gathering)
        self._held.discard(partition)

    def _due_ms(self, kind: Kind, arrival: Arrival, now_ms: int) -> int:
        match kind:
            case Kind.CALL:
                return now_ms
            case Kind.DIRECT | Kind.MENTION:
                return max(now_ms, self.alerts.free_at(arrival.partition, arrival.user_id, (arrival.sender_id,)))
            case _:
                return now_ms + self._gather_ms

    def _release(self, gathering: _Gathering, now_ms: int) -> Plan | None:
        """The gathering as a push, unless it has to wait for its senders' minute."""
        plan = gathering.plan()
        if plan.kind in (Kind.CALL, Kind.SYNC):
            self._remove(gathering)
            return plan
        free_ms = self.alerts.free_at(plan.partition, plan.user_id, plan.sender_ids)
        if free_ms > now_ms:
            longest_ms = gathering.began_ms + self._longest_ms
            if longest_ms > now_ms:
                self._make_due(gathering, min(free_ms, longest_ms))
                return None
            self._remove(gathering)
            return plan.silenced()
        self.alerts.alerted(plan.partition, plan.user_id, plan.sender_ids, now_ms)
        self._remove(gathering)
        return plan

    def _expedite(self, gatherings: Sequence[_Gathering], now_ms: int, messages: int) -> int:
        expedited = 0
        for gathering in gatherings:
            if messages <= 0:
                break
            messages -= len(gathering.offsets)
            self._held.discard(gathering.partition)
            if gathering.due_ms > now_ms:
                gathering.began_ms = min(gathering.began_ms, now_ms - self._longest_ms)
                self._make_due(gathering, now_ms)
                expedited += 1
        return expedited

    def _make_due(self, gathering: _Gathering, due_ms: int) -> None:
        gathering.due_ms = due_ms
        self._look_at(gathering)

    def _look_at(self, gathering: _Gathering) -> None:
        self._pushed += 1
        if len(self._heap) > 2 * len(self._gatherings) + _MOST_OUT_OF_DATE:
            self._heap = [
                (each.due_ms, n, each.key) for n, each in enumerate(self._gatherings.values(), -len(self._heap))
            ]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (gathering.due_ms, self._pushed, gathering.key))

    def _remove(self, gathering: _Gathering) -> None:
        del self._gatherings[gathering.key]
        self._messages -= len(gathering.offsets)

    def _not_held(self) -> Iterator[_Gathering]:
        return (each for each in self._gatherings.values() if each.partition not in self._held)
