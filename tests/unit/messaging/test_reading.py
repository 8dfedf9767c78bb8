"""Reading through the layers: what a tail saves, and that it never answers less than the store would."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import Unavailable
from services.messaging.reading import ConversationReads
from services.messaging.settings import MessagingSettings
from services.messaging.shared_tails import SharedTails
from services.messaging.tails import NO_BOUND, Asked, Tails, tail_of
from services.ports.message_store import MessageRow
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock
from tests.support.memory_ports import Disk, Life, MemoryStore

NEWEST = Asked(0, NO_BOUND, 50, newest=True)
SETTINGS = MessagingSettings(shared_tail_timeout_s=0.01, shared_tail_pause_s=5.0)


class CountingCache(MemoryCache):
    """A cache that counts what it is asked, fails while it is told to, and tells when something was stored."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, 100)
        self.asked = 0
        self.fails_with: Exception | None = None
        self.hangs = False
        self.stored = asyncio.Event()

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        self.asked += 1
        await self._misbehave()
        return await super().get(keys)

    async def set(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        await self._misbehave()
        await super().set(items, ttl_s)
        self.stored.set()

    async def _misbehave(self) -> None:
        if self.fails_with:
            raise self.fails_with
        if self.hangs:
            await asyncio.Event().wait()


class Owner:
    """A process that owns the conversation, or believes so."""

    def __init__(self, disk: Disk, shared: SharedTails | None = None) -> None:
        self.disk = disk
        self.life = Life()
        self.store = MemoryStore(disk, self.life)
        self.tails = Tails(100, 1_000_000)
        self.shared = shared
        self.reads = ConversationReads(self.store, self.store.conversation_heads, self.tails, shared)

    async def write(self, count: int) -> None:
        """As its projection would."""
        head = (await self.store.conversation_heads(["g.1"]))["g.1"]
        rows = [made(seq) for seq in range(head.place + 1, head.place + count + 1)]
        await self.store.put_messages(rows)
        self.tails.wrote(rows)

    async def read(self, asked: Asked = NEWEST) -> list[int]:
        """The seqs of the answer, whose payloads are checked."""
        span = await self.reads.read("g.1", asked)
        seqs = [span.first_seq + index for index in range(len(span.payloads))]
        assert list(span.payloads) == [self.disk.messages["g.1"][seq].payload for seq in seqs]
        return seqs

    async def calls_of_a_read(self, asked: Asked = NEWEST) -> list[str]:
        del self.life.trace[:]
        await self.read(asked)
        return self.life.trace


def made(seq: int) -> MessageRow:
    return MessageRow("g.1", seq, "ann", f"c{seq}", 10 * seq, f"message {seq}".encode())


class Instances:
    """Owners that share a cache and a store."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache = CountingCache(self.clock)
        self.disk = Disk()

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[Owner]:
        shared = SharedTails(self.cache, self.clock, SETTINGS)
        running = asyncio.create_task(shared.run())
        yield Owner(self.disk, shared)
        assert not running.done()
        running.cancel()


@pytest.fixture
def instances() -> Instances:
    return Instances()


@pytest.fixture
def owner() -> Owner:
    return Owner(Disk())


async def test_a_conversation_that_was_read_is_read_again_for_its_head_alone(owner: Owner) -> None:
    await owner.write(120)
    assert await owner.calls_of_a_read() == ["read_messages"]

    assert await owner.calls_of_a_read() == ["conversation_heads"]
    assert await owner.read() == list(range(71, 121))


async def test_what_is_written_here_is_read_without_reading_rows(owner: Owner) -> None:
    await owner.write(60)
    await owner.read()
    await owner.write(3)

    assert await owner.calls_of_a_read() == ["conversation_heads"]
    assert await owner.read() == list(range(14, 64))


async def test_pages_backwards_and_after_a_place_come_from_the_tail_too(owner: Owner) -> None:
    await owner.write(120)
    await owner.read()
    await owner.read(Asked(0, 71, 50, newest=True))

    older, after = Asked(0, 71, 50, newest=True), Asked(90, NO_BOUND, 11, newest=False)
    assert await owner.calls_of_a_read(older) == ["conversation_heads"]
    assert await owner.calls_of_a_read(after) == ["conversation_heads"]
    assert await owner.read(older) == list(range(21, 71))
    assert await owner.read(after) == list(range(91, 102))


async def test_a_page_before_the_tail_comes_from_the_store(owner: Owner) -> None:
    await owner.write(300)
    await owner.read()

    assert await owner.read(Asked(0, 100, 50, newest=True)) == list(range(50, 100))
    assert await owner.read(Asked(10, NO_BOUND, 5, newest=False)) == list(range(11, 16))
    assert await owner.read() == list(range(251, 301))


async def test_what_another_owner_wrote_is_never_missing() -> None:
    disk = Disk()
    old, new = Owner(disk), Owner(disk)
    await old.write(60)
    await old.read()

    await new.write(2)

    assert await old.read() == list(range(13, 63))
    assert await old.calls_of_a_read() == ["conversation_heads"]


async def test_a_tail_that_fell_far_behind_is_read_anew() -> None:
    disk = Disk()
    old, new = Owner(disk), Owner(disk)
    await old.write(60)
    await old.read()
    await new.write(150)

    assert await old.read() == list(range(161, 211))
    assert await old.calls_of_a_read() == ["conversation_heads"]


async def test_a_store_that_lost_its_rows_is_believed_and_not_the_tail() -> None:
    disk = Disk()
    owner = Owner(disk)
    newest = Asked(0, NO_BOUND, 10, newest=True)
    await owner.write(60)
    await owner.read()
    for seq in range(31, 61):
        del disk.messages["g.1"][seq]
    assert await owner.read(newest) == list(range(21, 31))

    disk.messages["g.1"][30] = MessageRow("g.1", 30, "ann", "other", 999, b"another")
    assert await owner.read(newest) == list(range(21, 31))


async def test_an_empty_conversation_is_read_from_the_store(owner: Owner) -> None:
    assert await owner.read() == []
    await owner.write(1)
    assert await owner.read() == [1]


async def test_the_next_owner_finds_the_tail_that_the_last_one_shared(instances: Instances) -> None:
    async with instances.owner() as first, instances.owner() as second:
        await first.write(120)
        await first.read()
        await instances.cache.stored.wait()

        assert await second.calls_of_a_read() == ["conversation_heads"]
        assert await second.read() == list(range(71, 121))


async def test_a_shared_tail_that_is_stale_is_extended_by_what_it_lacks_and_shared_anew(instances: Instances) -> None:
    async with instances.owner() as first, instances.owner() as second, instances.owner() as third:
        await first.write(60)
        await first.read()
        await instances.cache.stored.wait()
        instances.cache.stored.clear()
        await first.write(3)

        assert await second.calls_of_a_read() == ["conversation_heads", "read_messages"]
        assert await second.read() == list(range(14, 64))
        await instances.cache.stored.wait()
        assert await third.calls_of_a_read() == ["conversation_heads"]


async def test_a_shared_tail_of_another_history_is_replaced(instances: Instances) -> None:
    async with instances.owner() as first, instances.owner() as second:
        await first.write(60)
        await first.read()
        await instances.cache.stored.wait()
        instances.cache.stored.clear()
        instances.disk.messages.clear()
        await first.write(10)

        assert await second.read() == list(range(1, 11))
        await instances.cache.stored.wait()


async def test_what_the_cache_lost_is_read_from_the_store(instances: Instances) -> None:
    async with instances.owner() as first, instances.owner() as second:
        await first.write(60)
        await first.read()
        await instances.cache.stored.wait()
        await instances.cache.delete(["messaging:tail:g.1"])

        assert await second.read() == list(range(11, 61))


async def test_a_cache_that_is_away_is_left_alone_for_a_while(instances: Instances) -> None:
    instances.cache.fails_with = Unavailable("Redis is away.")
    async with instances.owner() as owner:
        await owner.write(60)
        assert await owner.read() == list(range(11, 61))
        for _ in range(3):
            owner.tails.forget("g.1")
            assert await owner.read() == list(range(11, 61))
        assert instances.cache.asked == 1

        instances.cache.fails_with = None
        instances.clock.advance(5.1)
        owner.tails.forget("g.1")
        await owner.read()
        assert instances.cache.asked == 2


async def test_a_cache_that_does_not_answer_holds_up_no_second_read(instances: Instances) -> None:
    instances.cache.hangs = True
    async with instances.owner() as owner:
        await owner.write(60)
        async with asyncio.timeout(30):
            for _ in range(3):
                owner.tails.forget("g.1")
                assert await owner.read() == list(range(11, 61))
        assert instances.cache.asked == 1


async def test_a_tail_of_large_messages_is_not_shared(instances: Instances) -> None:
    large = tail_of([MessageRow("g.1", seq, "ann", f"c{seq}", seq, b"x" * 10_000) for seq in range(1, 51)])
    small = tail_of([made(1)])
    async with instances.owner() as owner:
        assert owner.shared is not None
        owner.shared.offer("g.1", large)
        owner.shared.offer("g.2", small)
        await instances.cache.stored.wait()

        assert await owner.shared.find("g.1") is None
        assert await owner.shared.find("g.2") == small


READS = st.builds(
    Asked, st.integers(0, 130), st.sampled_from([5, 60, 120, NO_BOUND]), st.integers(1, 60), st.booleans()
)
STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.integers(1, 40), READS, st.just("evict"))), min_size=1, max_size=25
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_whoever_reads_gets_what_the_store_holds(steps: Sequence[tuple[int, object]]) -> None:
    """Two owners at a time, each with tails of its own and one shared cache."""

    async def play() -> None:
        instances = Instances()
        async with instances.owner() as first, instances.owner() as second:
            for index, step in steps:
                owner = (first, second)[index]
                if isinstance(step, int):
                    await owner.write(step)
                elif isinstance(step, Asked):
                    rows = await owner.store.read_messages(
                        "g.1", step.after_seq, step.before_seq, step.limit, step.newest
                    )
                    assert await owner.read(step) == [row.seq for row in rows]
                else:
                    owner.tails.forget("g.1")
                await asyncio.sleep(0)

    asyncio.run(play())
