"""The six rules that make the pipeline exactly-once in effect, and the whole of it under random crashes."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.messaging.inboxing import read_watermarks
from services.ports.log import Committed
from tests.support.memory_ports import Disk, Life, MemoryLog, MemoryStore
from tests.unit.messaging.harness import World, accepted, check_exactly_once, random_life

MEMBERS = ("ann0", "ben1", "cat2")


async def steps_of(world: World) -> list[str]:
    life = Life()
    async with asyncio.timeout(30):
        await world.live(life)
    return life.trace


async def crash_at(step: str, world: World, occurrence: int = 1) -> None:
    """Runs a process that dies at the step: none of its later effects happen."""
    life = Life()
    seen = 0

    def die() -> None:
        nonlocal seen
        seen += 1
        if seen == occurrence:
            life.dead.set()

    life.hooks[step] = die
    async with asyncio.timeout(30):
        await world.live(life)
    assert life.dead.is_set(), f"the process never came to {step!r}"


@pytest.mark.parametrize(
    "step",
    [
        "after put_messages",
        "before append inbox",
        "after append inbox",
        "before commit messages",
        "after put_inbox",
        "before append push",
        "after append push",
        "before commit inbox",
        "read_inbox",
    ],
)
async def test_rule_1_a_crash_after_the_row_neither_doubles_it_nor_loses_what_follows(step: str) -> None:
    world = World()
    for number in range(1, 4):
        world.accept(accepted(number, recipients=MEMBERS))
    if step == "read_inbox":  # looked at only by a process that finds its rows there already
        await crash_at("after put_inbox", world)
    await crash_at(step, world)

    await world.recover()

    check_exactly_once(world)


async def test_rule_1_rows_that_were_there_before_are_told_of_with_their_places() -> None:
    world = World()
    world.accept(accepted(1, recipients=MEMBERS))
    await world.recover()
    world.accept(accepted(2, recipients=MEMBERS))
    world.accept(accepted(3, recipients=MEMBERS))
    await crash_at("before append push", world)
    world.teller.connected = {"ben1"}

    await world.recover()

    assert [event.pos for event in world.teller.told if event.user_id == "ben1"] == [2, 3]
    assert {("cat2", 2), ("cat2", 3)} <= world.pushed()


async def test_rule_2_rows_of_a_conversation_in_one_batch_are_written_at_once_and_before_the_next_batch() -> None:
    world = World()
    for number in range(1, 7):
        world.accept(accepted(number, conversation_id="g.0" if number % 2 else "h.0"))
    life = Life()
    visible: list[tuple[int, int]] = []
    life.hooks["before put_messages"] = lambda: visible.append((len(world.seqs("g.0")), len(world.seqs("h.0"))))

    async with asyncio.timeout(30):
        await world.live(life, batch_records=4)

    assert visible == [(0, 0), (2, 0), (2, 2), (3, 2)]
    check_exactly_once(world)


async def test_rule_2_an_inbox_batch_is_one_write_for_each_user() -> None:
    world = World()
    for number in range(1, 5):
        world.accept(accepted(number, recipients=("ann0",)))
    life = Life()

    async with asyncio.timeout(30):
        await world.live(life)

    assert life.trace.count("before put_inbox") == 1
    assert len(world.inbox("ann0")) == 4


async def test_rule_3_inbox_records_that_are_sent_twice_are_applied_once() -> None:
    world = World()
    for number in range(1, 4):
        world.accept(accepted(number, recipients=MEMBERS))
    await crash_at("after append inbox", world, occurrence=2)
    world.accept(accepted(4, recipients=MEMBERS))

    await world.recover()

    assert len(world.disk.records["inbox", 1]) > 1
    check_exactly_once(world)


async def test_rule_3_every_inbox_record_of_a_batch_is_durable_before_the_next_batch_is_sent() -> None:
    world = World()
    for number in range(1, 3):
        world.accept(accepted(number, recipients=MEMBERS))
    life = Life()
    sent: list[tuple[int, int]] = []
    life.hooks["before append inbox"] = lambda: sent.append(
        (len(world.disk.records["inbox", 0]), len(world.disk.records["inbox", 1]))
    )
    slow = Slow(world.disk, life)

    await slow.live(world)

    assert sent[2] == (1, 1)
    check_exactly_once(world)


async def test_rule_3_the_watermarks_are_committed_with_the_offset_they_belong_to() -> None:
    world = World()
    world.accept(accepted(1, recipients=MEMBERS))
    world.accept(accepted(2, recipients=MEMBERS))
    await world.recover()

    committed = world.disk.commits["inboxes", "inbox", 1]

    assert read_watermarks(committed.state) == {0: 1}
    assert committed.next_offset == world.disk.ends["inbox", 1]


async def test_rule_3_the_watermarks_outlive_the_process() -> None:
    world = World()
    world.accept(accepted(1, recipients=MEMBERS))
    await world.recover()
    [record] = world.disk.records["inbox", 1]
    world.disk.append("inbox", 1, [record.value])

    await world.recover()

    assert world.inbox("ben1") == [("g.0", 1)]


async def test_rule_4_a_retry_is_dropped_by_what_is_durable_whoever_decides() -> None:
    world = World()
    world.accept(accepted(1, client_id="same"))
    await world.recover()
    world.accept(accepted(2, client_id="other"))
    world.accept(accepted(3, client_id="same"))

    await world.recover()

    assert world.seqs("g.0") == {1: "same", 2: "other"}
    assert [outcome.message.message_id for outcome in world.outcomes if outcome.message_id == 3] == [1]
    check_exactly_once(world)


async def test_rule_4_the_same_client_id_of_another_sender_or_conversation_is_another_message() -> None:
    world = World()
    world.accept(accepted(1, client_id="same"))
    world.accept(accepted(2, client_id="same", sender_id="ben1"))
    world.accept(accepted(3, client_id="same", conversation_id="h.0"))

    await world.recover()

    assert (len(world.seqs("g.0")), len(world.seqs("h.0"))) == (2, 1)


async def test_rule_5_nothing_is_committed_before_rows_and_inbox_records_are_durable() -> None:
    world = World()
    world.accept(accepted(1, recipients=MEMBERS))

    trace = await steps_of(world)

    first_commit = trace.index("before commit messages")
    assert trace.index("after put_messages") < first_commit
    assert [index for index, step in enumerate(trace) if step == "after append inbox"][-1] < first_commit
    inbox_commit = trace.index("before commit inbox")
    assert trace.index("after put_inbox") < inbox_commit
    assert trace.index("after append push") < inbox_commit


@pytest.mark.parametrize("topic", ["messages", "inbox"])
async def test_rule_5_a_record_that_cannot_be_read_stops_the_projection_before_it(topic: str) -> None:
    world = World()
    world.accept(accepted(1))
    await world.recover()
    bad = world.disk.append(topic, 0, [b"\xff\xff"])[0]
    world.disk.append(topic, 0, [accepted(2)])

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with asyncio.timeout(30):
            await world.live(Life())

    group = "conversations" if topic == "messages" else "inboxes"
    assert world.disk.commits.get((group, topic, 0), Committed(0, b"")).next_offset <= bad
    assert world.seqs("g.0") == {1: "c1"}


async def test_rule_6_two_owners_at_once_write_the_same_rows() -> None:
    world = World()
    for number in range(1, 30):
        world.accept(accepted(number, client_id=f"c{number % 20}", recipients=MEMBERS))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(world.live(random_life(1, float("inf")), batch_records=3))
        group.create_task(world.live(random_life(2, float("inf")), batch_records=5))

    await world.recover()
    check_exactly_once(world)


async def test_rule_6_an_owner_that_was_paused_for_long_changes_nothing() -> None:
    world = World()
    for number in range(1, 6):
        world.accept(accepted(number, recipients=MEMBERS))
    gate = asyncio.Event()
    paused = Paused(world.disk, gate)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        task = group.create_task(paused.live(world))
        await paused.arrived.wait()
        await world.recover()
        for number in range(6, 9):
            world.accept(accepted(number, client_id=f"c{number - 3}", recipients=MEMBERS))
        await world.recover()
        gate.set()
        await paused.written.wait()
        task.cancel()

    await world.recover()

    check_exactly_once(world)


class Paused:
    """A process that stops just before it writes its rows, until the gate opens."""

    def __init__(self, disk: Disk, gate: asyncio.Event) -> None:
        self._disk = disk
        self._gate = gate
        self.arrived = asyncio.Event()
        self.written = asyncio.Event()

    async def live(self, world: World) -> None:
        life = Life()
        step = life.step

        async def gated(name: str) -> None:
            if name == "before put_messages":
                self.arrived.set()
                await self._gate.wait()
            await step(name)
            if name == "after commit messages":
                self.written.set()

        life.step = gated  # type: ignore[method-assign]  # the one process of this test that waits
        await world.run(life)


class Slow:
    """A process in which one partition of "inbox" takes much longer to append to than the other."""

    def __init__(self, disk: Disk, life: Life) -> None:
        self._disk = disk
        self._life = life

    async def live(self, world: World) -> None:
        step = self._life.step
        calls = 0

        async def uneven(name: str) -> None:
            nonlocal calls
            if name == "before append inbox":
                calls += 1
                for _ in range(200 if calls % 2 else 0):
                    await asyncio.sleep(0)
            await step(name)

        self._life.step = uneven  # type: ignore[method-assign]  # see above
        async with asyncio.timeout(30):
            await world.live(self._life, batch_records=1)


sends = st.lists(
    st.tuples(
        st.sampled_from(["g.0", "g.1", "h.0"]),
        st.sampled_from(MEMBERS),
        st.integers(1, 6),
        st.sets(st.sampled_from(MEMBERS), min_size=1),
    ),
    max_size=12,
)
lives = st.lists(
    st.tuples(st.integers(0, 120), st.integers(1, 6), st.integers(0, 2**16)),
    min_size=1,
    max_size=2,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds=st.lists(st.tuples(sends, lives), min_size=1, max_size=5), gap=st.integers(1, 3))
def test_whatever_crashes_and_whoever_owns_nothing_is_lost_doubled_or_out_of_order(
    rounds: list[tuple[list[tuple[str, str, int, set[str]]], list[tuple[int, int, int]]]], gap: int
) -> None:
    async def story() -> None:
        world = World(disk=Disk(offset_gap=gap))
        world.teller.connected = {"ben1"}
        message_id = 0
        for batch, processes in rounds:
            for conversation_id, sender_id, client, recipients in batch:
                message_id += 1
                world.accept(accepted(message_id, conversation_id, sender_id, f"c{client}", sorted(recipients)))
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for dies_at, batch_records, seed in processes:
                    group.create_task(world.live(random_life(seed, dies_at), batch_records))
        await world.recover()
        check_exactly_once(world)

    asyncio.run(story())


def test_the_ports_in_memory_are_what_the_projections_ask_for() -> None:
    disk, life = Disk(), Life()

    assert MemoryLog(disk, life)
    assert MemoryStore(disk, life)
