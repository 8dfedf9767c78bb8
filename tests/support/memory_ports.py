"""The engines in memory: one Disk that outlives processes, and for each process its own view of it, which can die.

A view dies at a chosen step (before or after the effect of the call that makes it), and from then on every call of that
process raises: nothing it does reaches the disk any more. Rows are immutable: writing another row in the place of one
that is there fails the test at once.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.ports.bus import Handler, OnGap
from services.ports.log import Committed, Record
from services.ports.message_store import (
    Activity,
    ActivityPlace,
    ActivityRow,
    DedupKey,
    Head,
    InboxRow,
    MarkRow,
    MessageRow,
)


class Died(Exception):
    """The process that made the call is dead."""


class RowChanged(AssertionError):
    """A row was written that differs from the one that was there."""


@dataclass(slots=True)
class Disk:
    """What survives processes. `offset_gap` is the distance of neighbouring offsets of a partition."""

    offset_gap: int = 1
    records: defaultdict[tuple[str, int], list[Record]] = field(default_factory=lambda: defaultdict(list))
    ends: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    commits: dict[tuple[str, str, int], Committed] = field(default_factory=dict)
    messages: defaultdict[str, dict[int, MessageRow]] = field(default_factory=lambda: defaultdict(dict))
    sent: dict[DedupKey, MessageRow] = field(default_factory=dict)
    inboxes: defaultdict[str, dict[int, InboxRow]] = field(default_factory=lambda: defaultdict(dict))
    activity: dict[ActivityPlace, ActivityRow] = field(default_factory=dict)
    furthest: defaultdict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))
    marks: dict[tuple[str, str], MarkRow] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def touch(self) -> None:
        """Wakes who waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when the condition holds; it is looked at after each change."""
        while not true():
            await self.changed.wait()

    def settled(self, group: str, topic: str) -> bool:
        """Whether the group's commits are past every record of the topic now."""
        commits = {place: committed.next_offset for place, committed in self.commits.items()}
        return self._past(commits, group, topic)

    def was_settled(self, group: str, topic: str) -> bool:
        """The same for the furthest commits there ever were: another owner may have taken one back since."""
        return self._past(self.furthest, group, topic)

    def _past(self, commits: Mapping[tuple[str, str, int], int], group: str, topic: str) -> bool:
        return all(
            not records or commits.get((group, topic, partition), 0) > records[-1].offset
            for (its_topic, partition), records in self.records.items()
            if its_topic == topic
        )

    def append(self, topic: str, partition: int, values: Sequence[bytes]) -> list[int]:
        """Appends without a process."""
        offsets = []
        for value in values:
            offset = self.ends[topic, partition]
            self.ends[topic, partition] = offset + self.offset_gap
            self.records[topic, partition].append(Record(offset, value))
            offsets.append(offset)
        self.touch()
        return offsets


class Life:
    """A process's life: counts its engine calls and ends at one of them. `rng` spreads the calls of processes that run at once."""

    def __init__(self, dies_at: float = float("inf"), rng: random.Random | None = None) -> None:
        self.dies_at = dies_at
        self.steps = 0
        self.dead = asyncio.Event()
        self.trace: list[str] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        self._rng = rng

    async def step(self, name: str) -> None:
        """One half of a call: before its effect or after it."""
        turns = 1
        if self._rng is not None:
            turns = self._rng.randint(30, 60) if self._rng.random() < 0.05 else self._rng.randint(0, 3)
        for _ in range(turns):
            await asyncio.sleep(0)
        if self.steps >= self.dies_at:
            self.dead.set()
        if self.dead.is_set():
            raise Died(name)
        self.steps += 1
        self.trace.append(name)
        if name in self.hooks:
            self.hooks[name]()


class MemoryLog:
    """services.ports.log.Log over a Disk."""

    def __init__(self, disk: Disk, life: Life) -> None:
        self._disk = disk
        self._life = life

    async def append(self, topic: str, partition: int, values: Sequence[bytes]) -> Sequence[int]:
        await self._life.step(f"before append {topic}")
        offsets = self._disk.append(topic, partition, values)
        await self._life.step(f"after append {topic}")
        return offsets

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Record]:
        await self._life.step(f"read {topic}")
        return [record for record in self._disk.records[topic, partition] if record.offset >= offset][:limit]

    async def wait(self, topic: str, partition: int, offset: int) -> None:
        await self._disk.until(lambda: self._disk.ends[topic, partition] > offset)

    async def commit(self, group: str, topic: str, partition: int, committed: Committed) -> None:
        await self._life.step(f"before commit {topic}")
        place = (group, topic, partition)
        self._disk.commits[place] = committed
        self._disk.furthest[place] = max(committed.next_offset, self._disk.furthest[place])
        self._disk.touch()
        await self._life.step(f"after commit {topic}")

    async def committed(self, group: str, topic: str, partition: int) -> Committed:
        await self._life.step(f"committed {topic}")
        return self._disk.commits.get((group, topic, partition), Committed(0, b""))

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        await self._life.step(f"trim {topic}")
        kept = [record for record in self._disk.records[topic, partition] if record.offset >= before_offset]
        self._disk.records[topic, partition] = kept

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryStore:
    """services.ports.message_store.MessageStore over a Disk."""

    def __init__(self, disk: Disk, life: Life) -> None:
        self._disk = disk
        self._life = life

    async def flush(self) -> None:
        await self._life.step("flush")

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        await self._life.step("conversation_heads")
        heads = {}
        for conversation_id in conversation_ids:
            rows = self._disk.messages[conversation_id]
            heads[conversation_id] = Head(max(rows), rows[max(rows)].log_offset) if rows else Head(0, -1)
        return heads

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        await self._life.step("find_sent")
        return {key: self._disk.sent[key] for key in keys if key in self._disk.sent}

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        groups: defaultdict[str, list[MessageRow]] = defaultdict(list)
        for row in rows:
            groups[row.conversation_id].append(row)
        for group in groups.values():  # atomic for each conversation, not over several
            await self._life.step("before put_messages")
            for row in group:
                if self._disk.messages[row.conversation_id].setdefault(row.seq, row) != row:
                    raise RowChanged(row)
                key = (row.conversation_id, row.sender_id, row.client_id)
                if self._disk.sent.setdefault(key, row) != row:
                    raise RowChanged(row)
            self._disk.touch()
        await self._life.step("after put_messages")

    async def read_messages(
        self, conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool
    ) -> Sequence[MessageRow]:
        await self._life.step("read_messages")
        rows = [
            row for seq, row in sorted(self._disk.messages[conversation_id].items()) if after_seq < seq < before_seq
        ]
        return rows[-limit:] if newest else rows[:limit]

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        await self._life.step("inbox_heads")
        heads = {}
        for user_id in user_ids:
            rows = self._disk.inboxes[user_id]
            heads[user_id] = Head(max(rows), rows[max(rows)].log_offset) if rows else Head(0, -1)
        return heads

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow] = ()) -> None:
        await self._life.step("before put activity")
        for item in activity:
            place = (item.user_id, item.conversation_id)
            known = self._disk.activity.get(place)
            if known is not None and known.last_pos == item.last_pos and known != item:
                raise RowChanged(item)
            if known is None or known.last_pos < item.last_pos:
                self._disk.activity[place] = item
        groups: defaultdict[str, list[InboxRow]] = defaultdict(list)
        for row in rows:
            groups[row.user_id].append(row)
        for group in groups.values():
            await self._life.step("before put_inbox")
            for row in group:
                if self._disk.inboxes[row.user_id].setdefault(row.pos, row) != row:
                    raise RowChanged(row)
            self._disk.touch()
        await self._life.step("after put_inbox")

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        await self._life.step("read_inbox")
        return [row for pos, row in sorted(self._disk.inboxes[user_id].items()) if pos > after_pos][:limit]

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        await self._life.step("inbox_activity")
        return {place: self._disk.activity[place] for place in places if place in self._disk.activity}

    async def list_activity(self, user_id: str, before_pos: int, limit: int) -> Sequence[Activity]:
        await self._life.step("list_activity")
        rows = [row for row in self._disk.activity.values() if row.user_id == user_id and row.last_pos < before_pos]
        rows.sort(key=lambda row: -row.last_pos)
        none = MarkRow("", user_id, 0, 0)
        return [
            Activity(
                row,
                self._disk.marks.get((row.conversation_id, user_id), none).seen_seq,
                self._disk.inboxes[user_id][row.last_pos].payload,
            )
            for row in rows[:limit]
        ]

    async def merge_marks(self, marks: Sequence[MarkRow]) -> Sequence[MarkRow]:
        await self._life.step("merge_marks")
        changed = []
        for mark in marks:
            key = (mark.conversation_id, mark.user_id)
            old = self._disk.marks.get(key, MarkRow(*key, 0, 0))
            new = MarkRow(*key, max(old.delivered_seq, mark.delivered_seq), max(old.seen_seq, mark.seen_seq))
            self._disk.marks[key] = new
            if new != old:
                changed.append(new)
        self._disk.touch()
        return changed

    async def read_marks(self, conversation_id: str, after_user_id: str, limit: int) -> Sequence[MarkRow]:
        await self._life.step("read_marks")
        marks = [mark for key, mark in sorted(self._disk.marks.items()) if key[0] == conversation_id]
        return [mark for mark in marks if mark.user_id > after_user_id][:limit]

    async def recent_marks(self, user_id: str, limit: int) -> Sequence[MarkRow]:
        await self._life.step("recent_marks")
        newest = [row.conversation_id for _, row in sorted(self._disk.inboxes[user_id].items(), reverse=True)]
        conversations = list(dict.fromkeys(newest))[:limit]
        marks = [mark for _, mark in sorted(self._disk.marks.items()) if mark.conversation_id in conversations]
        return marks[: 10 * limit]

    async def close(self) -> None:
        """Nothing to let go of."""


class _MemorySubscription:
    def __init__(self, handlers: list[Handler], handler: Handler) -> None:
        self._handlers = handlers
        self._handler = handler

    async def close(self) -> None:
        if self._handler in self._handlers:
            self._handlers.remove(self._handler)


class MemoryTopics:
    """services.ports.bus.Bus without any bound."""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)

    async def publish(self, topic: str, payload: bytes) -> None:
        for handler in list(self._handlers[topic]):
            handler(topic, payload)

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> _MemorySubscription:
        self._handlers[topic].append(handler)
        return _MemorySubscription(self._handlers[topic], handler)

    async def close(self) -> None:
        self._handlers.clear()
