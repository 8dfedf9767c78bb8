from prometheus_client import REGISTRY

from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock


async def test_a_full_cache_lets_the_keys_go_that_run_out_first() -> None:
    cache = MemoryCache(ManualClock(), most_keys=3)
    for key, ttl_s in (("late", 40.0), ("first", 10.0), ("second", 20.0), ("third", 30.0), ("fourth", 35.0)):
        await cache.set({key: b"1"}, ttl_s)

    assert await cache.get(["first", "second", "third", "fourth", "late"]) == [None, None, b"1", b"1", b"1"]
    assert len(cache) == 3


async def test_a_renewed_key_is_not_the_first_to_go() -> None:
    cache = MemoryCache(ManualClock(), most_keys=2)
    await cache.set({"renewed": b"1"}, 10)
    await cache.set({"other": b"1"}, 20)
    await cache.set({"renewed": b"2"}, 30)

    await cache.set({"new": b"1"}, 25)

    assert await cache.get(["renewed", "other", "new"]) == [b"2", None, b"1"]


async def test_a_key_that_will_run_out_sooner_than_it_was_to_is_the_first_to_go() -> None:
    cache = MemoryCache(ManualClock(), most_keys=2)
    await cache.set({"shortened": b"1"}, 30)
    await cache.set({"other": b"1"}, 20)
    await cache.set({"shortened": b"2"}, 5)

    await cache.set({"new": b"1"}, 25)

    assert await cache.get(["shortened", "other", "new"]) == [None, b"1", b"1"]


async def test_maps_count_as_keys() -> None:
    cache = MemoryCache(ManualClock(), most_keys=2)
    await cache.put_field("m", "f", b"1", 10)
    await cache.put_field("m", "g", b"2", 10)
    await cache.set({"a": b"1", "b": b"2"}, 20)

    assert await cache.fields(["m"]) == [{}]
    assert await cache.get(["a", "b"]) == [b"1", b"2"]


async def test_what_has_run_out_is_let_go_of_as_others_come() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock)
    for n in range(1_000):
        await cache.set({f"old{n}": b"1"}, 10)
    clock.advance(11)

    for n in range(100):
        await cache.set({f"new{n}": b"1"}, 10)

    assert len(cache) == 100


async def test_keys_that_are_renewed_and_deleted_for_ever_take_no_more_room() -> None:
    cache = MemoryCache(ManualClock())
    for n in range(20_000):
        await cache.set({"renewed": b"1"}, 3_600)
        await cache.set({f"short{n}": b"1"}, 3_600)
        await cache.delete([f"short{n}"])

    assert len(cache) == 1
    assert len(cache._heap) < 2_000


async def test_errors_of_handlers_are_counted() -> None:
    def fail(topic: str, payload: bytes) -> None:
        raise ValueError("a bug")

    bus = MemoryBus()
    await bus.subscribe("t", fail)
    before = REGISTRY.get_sample_value("hither_bus_handler_errors_total") or 0.0

    await bus.publish("t", b"news")

    assert REGISTRY.get_sample_value("hither_bus_handler_errors_total") == before + 1
    await bus.close()


async def test_subscriptions_that_come_and_go_leave_nothing_behind() -> None:
    def ignore(topic: str, payload: bytes) -> None:
        pass

    bus = MemoryBus()
    for n in range(10):
        one = await bus.subscribe(f"t{n}", ignore)
        other = await bus.subscribe(f"t{n}", ignore)
        await one.close()
        await other.close()

    assert len(bus._topics) == 0
