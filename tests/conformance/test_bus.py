"""What every bus promises. What is published is awaited through a queue, for adapters whose news travel."""

import asyncio

import pytest

from discovery.errors import InvalidArgument, Unavailable
from services.ports.bus import Bus
from tests.conformance.conftest import LOSSY_BUSES, BusRig


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def __call__(self, topic: str, payload: bytes) -> None:
        self.news.put_nowait((topic, payload))

    async def next(self) -> tuple[str, bytes]:
        async with asyncio.timeout(30):
            return await self.news.get()


async def test_a_subscriber_gets_topic_and_payload(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    await bus.publish("t", b"news")

    assert await inbox.next() == ("t", b"news")


async def test_handlers_of_this_process_have_run_when_publish_returns(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    await bus.publish("t", b"news")

    assert inbox.news.qsize() == 1


async def test_each_of_many_who_publish_at_once_finds_its_own_news_handled(bus: Bus) -> None:
    heard: set[bytes] = set()
    await bus.subscribe("t", lambda _, payload: heard.add(payload))

    async def publish(payload: bytes) -> bool:
        await bus.publish("t", payload)
        return payload in heard

    assert all(await asyncio.gather(*(publish(b"%d" % n) for n in range(1_000))))


async def test_payloads_of_a_publisher_come_in_order(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    for n in range(100):
        await bus.publish("t", bytes([n]))

    assert [(await inbox.next())[1] for _ in range(100)] == [bytes([n]) for n in range(100)]


async def test_other_topics_are_not_heard(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    await bus.publish("u", b"other")
    await bus.publish("t", b"own")

    assert await inbox.next() == ("t", b"own")


async def test_nothing_is_kept_for_who_comes_later(bus: Bus) -> None:
    inbox = Inbox()
    await bus.publish("t", b"early")
    await bus.subscribe("t", inbox)
    await bus.publish("t", b"late")

    assert await inbox.next() == ("t", b"late")


async def test_every_subscriber_hears_and_the_same_handler_twice_if_subscribed_twice(bus: Bus) -> None:
    once, twice = Inbox(), Inbox()
    await bus.subscribe("t", once)
    await bus.subscribe("t", twice)
    second = await bus.subscribe("t", twice)

    await bus.publish("t", b"news")
    assert [await inbox.next() for inbox in (once, twice, twice)] == [("t", b"news")] * 3

    await second.close()
    await bus.publish("t", b"more")
    assert [await inbox.next() for inbox in (once, twice)] == [("t", b"more")] * 2
    assert twice.news.empty()


async def test_a_closed_subscription_hears_nothing_and_may_be_closed_again(bus: Bus) -> None:
    gone, there = Inbox(), Inbox()
    subscription = await bus.subscribe("t", gone)
    await bus.subscribe("t", there)

    await subscription.close()
    await subscription.close()
    await bus.publish("t", b"news")

    assert await there.next() == ("t", b"news")
    assert gone.news.empty()


async def test_an_error_of_a_handler_ends_nothing(bus: Bus) -> None:
    heard: list[bytes] = []

    def fail(_: str, payload: bytes) -> None:
        heard.append(payload)
        raise ValueError("a bug")

    inbox = Inbox()
    await bus.subscribe("t", fail)
    await bus.subscribe("t", inbox)

    await bus.publish("t", b"one")
    await bus.publish("t", b"two")

    assert [await inbox.next(), await inbox.next()] == [("t", b"one"), ("t", b"two")]
    assert heard == [b"one", b"two"]


class Gaps:
    """Keeps the topics of which it is told that news may have been missed."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, topic: str) -> None:
        self.told.put_nowait(topic)

    async def next(self) -> str:
        async with asyncio.timeout(30):
            return await self.told.get()


LOSSY = pytest.mark.parametrize("bus_rig", list(LOSSY_BUSES.values()), ids=list(LOSSY_BUSES), indirect=True)


@LOSSY
async def test_who_may_have_missed_news_is_told_once_it_hears_again(bus_rig: BusRig) -> None:
    inbox, gaps, others = Inbox(), Gaps(), Gaps()
    await bus_rig.bus.subscribe("t", inbox, gaps)
    await bus_rig.bus.subscribe("u", inbox, others)

    await bus_rig.interrupt()

    assert (await gaps.next(), await others.next()) == ("t", "u")
    await bus_rig.bus.publish("t", b"news")
    assert await inbox.next() == ("t", b"news")


@LOSSY
async def test_each_loss_is_told(bus_rig: BusRig) -> None:
    gaps = Gaps()
    await bus_rig.bus.subscribe("t", Inbox(), gaps)

    for _ in range(3):
        await bus_rig.interrupt()
        assert await gaps.next() == "t"


@LOSSY
async def test_an_error_of_who_is_told_of_a_gap_ends_nothing(bus_rig: BusRig) -> None:
    def fail(_: str) -> None:
        raise ValueError("a bug")

    inbox, gaps = Inbox(), Gaps()
    await bus_rig.bus.subscribe("t", inbox, fail)
    await bus_rig.bus.subscribe("t", inbox, gaps)

    await bus_rig.interrupt()

    assert await gaps.next() == "t"
    await bus_rig.bus.publish("t", b"news")
    assert [await inbox.next(), await inbox.next()] == [("t", b"news")] * 2


@LOSSY
async def test_who_has_closed_its_subscription_is_told_of_no_gap(bus_rig: BusRig) -> None:
    gone, there = Gaps(), Gaps()
    subscription = await bus_rig.bus.subscribe("t", Inbox(), gone)
    await bus_rig.bus.subscribe("t", Inbox(), there)
    await subscription.close()

    await bus_rig.interrupt()

    assert await there.next() == "t"
    assert gone.told.empty()


async def test_no_gap_is_told_where_nothing_was_lost(bus: Bus) -> None:
    gaps = Gaps()
    first = await bus.subscribe("t", Inbox(), gaps)
    await bus.subscribe("t", Inbox(), gaps)
    await bus.publish("t", b"news")
    await first.close()
    await bus.publish("t", b"news")

    assert gaps.told.empty()


async def test_a_payload_of_64_kib_is_taken_and_a_larger_one_refused(bus: Bus) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    await bus.publish("t", b"x" * 65_536)
    with pytest.raises(InvalidArgument):
        await bus.publish("t", b"x" * 65_537)

    assert len((await inbox.next())[1]) == 65_536


async def test_publishing_to_nobody_is_no_error(bus: Bus) -> None:
    await bus.publish("nobody", b"news")


async def test_a_closed_bus_is_unavailable_and_calls_nobody(bus: Bus) -> None:
    inbox = Inbox()
    subscription = await bus.subscribe("t", inbox)
    await bus.close()
    await bus.close()
    await subscription.close()

    with pytest.raises(Unavailable) as caught:
        await bus.publish("t", b"news")
    with pytest.raises(Unavailable):
        await bus.subscribe("t", inbox)

    assert caught.value.reason == "ENGINE_DOWN"
    assert inbox.news.empty()
