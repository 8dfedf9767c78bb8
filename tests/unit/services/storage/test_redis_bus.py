"""The bus on Redis: several processes, and a server that goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import REGISTRY

from discovery.errors import HitherError, ResourceExhausted, Unavailable
from services.ports.bus import Bus
from services.storage.redis.bus import RedisBus
from services.storage.redis.connections import RedisSettings
from services.storage.redis.frames import Frame, Newest, unpacked
from tests.support.servers.process import free_port
from tests.support.servers.redis import RedisServer

QUICK_TO_COME_BACK = RedisSettings(timeout_s=20.0, reconnect_most_s=0.1)
QUICK_TO_GIVE_UP = RedisSettings(timeout_s=2.0, heartbeat_s=0.5, reconnect_most_s=0.1)


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.news: list[bytes] = []
        self._more = asyncio.Event()

    def __call__(self, topic: str, payload: bytes) -> None:
        self.news.append(payload)
        self._more.set()

    async def has(self, count: int) -> list[bytes]:
        """What came, when it is so many."""
        async with asyncio.timeout(30):
            while len(self.news) < count:
                self._more.clear()
                await self._more.wait()
        return self.news


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The run's own server, for a test that takes it away: it is there again for the next one."""
    yield redis_server
    redis_server.stop()
    redis_server.start()


@pytest.fixture
async def bus(server: RedisServer) -> AsyncIterator[RedisBus]:
    opened = await RedisBus.open(server.url, QUICK_TO_COME_BACK)
    yield opened
    await opened.close()


@pytest.fixture
async def other(server: RedisServer) -> AsyncIterator[RedisBus]:
    """Another process."""
    opened = await RedisBus.open(server.url, QUICK_TO_COME_BACK)
    yield opened
    await opened.close()


async def live(*buses: RedisBus) -> None:
    """Returns when their subscriptions are live."""
    async with asyncio.timeout(30):
        for one in buses:
            await one._server.listener.live.wait()


async def deaf(*buses: RedisBus) -> None:
    """Returns when they have seen that the server is away."""
    async with asyncio.timeout(30):
        for one in buses:
            while one._server.listener.live.is_set():
                await asyncio.to_thread(lambda: None)


async def outcome(bus: Bus, topic: str, payload: bytes) -> str:
    """What became of publishing: its error's reason, or "done"."""
    try:
        await bus.publish(topic, payload)
    except HitherError as error:
        return error.reason
    return "done"


async def channels(server: RedisServer) -> object:
    """What the server's clients listen to."""
    return await asyncio.to_thread(server.ask, "PUBSUB", "CHANNELS")


# Several processes


async def test_another_process_hears_what_is_published(bus: RedisBus, other: RedisBus) -> None:
    here, there = Inbox(), Inbox()
    await bus.subscribe("t", here)
    await other.subscribe("t", there)

    await bus.publish("t", b"news")

    assert here.news == [b"news"]
    assert await there.has(1) == [b"news"]


async def test_all_processes_hear_the_news_of_several_in_one_order(bus: RedisBus, other: RedisBus) -> None:
    here, there = Inbox(), Inbox()
    await bus.subscribe("t", here)
    await other.subscribe("t", there)

    await asyncio.gather(*(one.publish("t", b"%d" % n) for n in range(200) for one in (bus, other)))

    assert await here.has(400) == await there.has(400)


async def test_news_that_are_published_at_once_come_in_the_order_of_the_calls(bus: RedisBus, other: RedisBus) -> None:
    there = Inbox()
    await other.subscribe("t", there)

    await asyncio.gather(*(bus.publish("t", b"%d" % n) for n in range(1_000)))

    assert await there.has(1_000) == [b"%d" % n for n in range(1_000)]


async def test_the_server_forgets_a_topic_that_nobody_listens_to_any_more(bus: RedisBus, server: RedisServer) -> None:
    first, second = await bus.subscribe("t", Inbox()), await bus.subscribe("t", Inbox())
    await first.close()
    assert await channels(server) == [b"hither:t"]

    await second.close()

    async with asyncio.timeout(30):
        while await channels(server):
            pass


async def test_subscribing_again_at_once_hears_again(bus: RedisBus) -> None:
    inbox = Inbox()
    for n in range(20):
        subscription = await bus.subscribe("t", inbox)
        await bus.publish("t", b"%d" % n)
        await subscription.close()

    assert inbox.news == [b"%d" % n for n in range(20)]


async def test_publishing_does_not_wait_for_a_subscription_that_ends_meanwhile(
    bus: RedisBus, server: RedisServer
) -> None:
    subscription = await bus.subscribe("t", Inbox())
    await asyncio.to_thread(server.pause)
    publishing = asyncio.create_task(bus.publish("t", b"news"))
    await asyncio.to_thread(lambda: None)
    await subscription.close()
    await asyncio.to_thread(server.resume)

    await publishing


async def test_what_is_no_frame_is_ignored_and_counted(bus: RedisBus, server: RedisServer) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)
    before = REGISTRY.get_sample_value("hither_bus_ignored_total", {"why": "unknown"}) or 0.0

    await asyncio.to_thread(server.ask, "PUBLISH", "hither:t", "from somebody else")
    await bus.publish("t", b"news")

    assert inbox.news == [b"news"]
    assert REGISTRY.get_sample_value("hither_bus_ignored_total", {"why": "unknown"}) == before + 1


async def test_news_that_a_hung_server_gives_after_newer_ones_are_not_heard(
    bus: RedisBus, other: RedisBus, server: RedisServer
) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)
    for payload in (b"old", b"new"):
        await other.publish("t", payload)

    await asyncio.to_thread(
        server.ask, "PUBLISH", "hither:t", Frame(other._server._frames.publisher, 1, b"old").packed()
    )
    await bus.publish("t", b"own")

    assert await inbox.has(3) == [b"old", b"new", b"own"]


def test_a_frame_comes_out_as_it_went_in() -> None:
    frame = Frame(b"publishr", 7, b"payload")

    assert unpacked(frame.packed()) == frame
    assert [unpacked(data) for data in (b"", b"\x01short", b"\x02" + frame.packed()[1:])] == [None, None, None]


def test_news_that_come_after_newer_ones_of_their_publisher_are_too_late() -> None:
    newest = Newest(2)
    one, two, three = b"1" * 8, b"2" * 8, b"3" * 8

    taken = [
        newest.takes(Frame(who, number, b"")) for who, number in ((one, 5), (two, 1), (one, 4), (one, 5), (one, 6))
    ]

    assert taken == [True, True, False, False, True]
    assert newest.takes(Frame(three, 1, b""))
    assert not newest.takes(Frame(one, 6, b""))
    assert len(newest._numbers) == 2


# Limits


async def test_more_topics_than_may_be_listened_to_are_refused(server: RedisServer) -> None:
    bus = await RedisBus.open(server.url, RedisSettings(topics_most=2))
    await bus.subscribe("a", Inbox())
    subscription = await bus.subscribe("b", Inbox())
    await bus.subscribe("b", Inbox())

    with pytest.raises(ResourceExhausted):
        await bus.subscribe("c", Inbox())
    await subscription.close()
    await bus.close()


async def test_more_news_than_may_wait_are_refused(server: RedisServer) -> None:
    bus = await RedisBus.open(server.url, RedisSettings(waiting_bytes_most=50_000))

    outcomes = await asyncio.gather(*(outcome(bus, "t", b"x" * 20_000) for _ in range(3)))
    later = await outcome(bus, "t", b"x" * 20_000)
    await bus.close()

    assert outcomes == ["done", "done", "OVERLOADED"]
    assert later == "done"


# A server that goes away


async def test_opening_where_no_server_is_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        await RedisBus.open(f"redis://127.0.0.1:{free_port()}", RedisSettings(timeout_s=0.2))

    assert caught.value.reason == "ENGINE_DOWN"


async def test_subscriptions_are_live_again_after_the_server_was_away(
    bus: RedisBus, other: RedisBus, server: RedisServer
) -> None:
    here, there = Inbox(), Inbox()
    await bus.subscribe("t", here)
    await other.subscribe("t", there)
    losses = REGISTRY.get_sample_value("hither_bus_losses_total") or 0.0

    await asyncio.to_thread(server.kill)
    await deaf(bus, other)
    away = [await outcome(bus, topic, b"lost") for topic in ("t", "nobody listens")]
    with pytest.raises(Unavailable) as caught:
        await bus.subscribe("u", Inbox())
    await asyncio.to_thread(server.start)
    await live(bus, other)
    await bus.publish("t", b"news")

    assert away == ["ENGINE_DOWN", "ENGINE_DOWN"]
    assert caught.value.reason == "ENGINE_DOWN"
    assert here.news == [b"news"]
    assert await there.has(1) == [b"news"]
    assert REGISTRY.get_sample_value("hither_bus_losses_total") == losses + 2
    assert await channels(server) == [b"hither:t"]


async def test_more_topics_than_go_in_one_command_are_live_again(bus: RedisBus, server: RedisServer) -> None:
    inbox = Inbox()
    await asyncio.gather(*(bus.subscribe(f"t{n}", inbox) for n in range(1_200)))

    await asyncio.to_thread(server.kill)
    await deaf(bus)
    await asyncio.to_thread(server.start)
    await live(bus)
    await asyncio.gather(*(bus.publish(f"t{n}", b"") for n in range(1_200)))

    assert len(inbox.news) == 1_200


async def test_a_subscription_that_ended_while_the_server_was_away_does_not_come_back(
    bus: RedisBus, server: RedisServer
) -> None:
    inbox = Inbox()
    await bus.subscribe("kept", inbox)
    subscription = await bus.subscribe("gone", inbox)

    await asyncio.to_thread(server.kill)
    await deaf(bus)
    await subscription.close()
    await asyncio.to_thread(server.start)
    await live(bus)

    assert await channels(server) == [b"hither:kept"]


async def test_news_that_a_silent_server_took_are_not_said_to_have_been_heard(server: RedisServer) -> None:
    bus = await RedisBus.open(server.url, QUICK_TO_GIVE_UP)
    inbox = Inbox()
    await bus.subscribe("t", inbox)
    await asyncio.to_thread(server.pause)
    publishing = asyncio.create_task(outcome(bus, "t", b"news"))
    await deaf(bus)

    away = await publishing
    await asyncio.to_thread(server.resume)
    await live(bus)

    assert away == "ENGINE_DOWN"
    await bus.publish("t", b"more")
    assert inbox.news[-1] == b"more"
    await bus.close()


async def test_only_the_subscriptions_connection_breaks_and_they_are_live_again(
    bus: RedisBus, server: RedisServer
) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)

    await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "pubsub")
    await deaf(bus)
    await live(bus)
    await bus.publish("t", b"news")

    assert inbox.news == [b"news"]


@pytest.mark.parametrize("passes", range(8))
async def test_a_bus_ends_at_every_moment_after_a_connection_broke(redis_server: RedisServer, passes: int) -> None:
    bus = await RedisBus.open(redis_server.url, QUICK_TO_COME_BACK)
    await bus.subscribe("t", Inbox())

    redis_server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    for _ in range(passes):
        await asyncio.sleep(
            0
        )  # a pass of the loop: the end is read in one, the parts of the listener end in later ones
    closing = asyncio.create_task(bus.close())
    await asyncio.wait([closing], timeout=30)

    assert closing.done()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]


async def test_a_bug_in_the_listener_is_counted_and_does_not_leave_the_process_deaf(
    bus: RedisBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox()
    await bus.subscribe("t", inbox)
    bugs = REGISTRY.get_sample_value("hither_bus_failures_total") or 0.0

    with monkeypatch.context() as patch:
        patch.setattr(bus._server._newest, "takes", None)
        assert await outcome(bus, "t", b"lost") == "ENGINE_DOWN"
    await live(bus)
    await bus.publish("t", b"news")

    assert inbox.news == [b"news"]
    assert REGISTRY.get_sample_value("hither_bus_failures_total") == bugs + 1


async def test_a_bus_that_ended_by_an_error_says_so_to_every_later_caller(server: RedisServer) -> None:
    async def fail() -> None:
        raise ValueError("a bug")

    bus = RedisBus(server.url, QUICK_TO_COME_BACK)
    bugs = REGISTRY.get_sample_value("hither_bus_failures_total") or 0.0
    bus._server.listener.run = fail  # type: ignore[method-assign]
    bus._start()
    running = bus._running
    assert running is not None
    await asyncio.wait([running])

    assert await outcome(bus, "t", b"news") == "ENGINE_DOWN"
    assert REGISTRY.get_sample_value("hither_bus_failures_total") == bugs + 1
    await bus.close()
