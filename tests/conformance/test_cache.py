"""What every cache promises."""

from collections.abc import Awaitable, Callable

import pytest

from discovery.errors import InvalidArgument, Unavailable
from services.ports.cache import Cache
from tests.conformance.conftest import CacheRig


async def test_get_answers_in_the_order_of_the_keys_with_none_for_what_is_absent(cache: Cache) -> None:
    await cache.set({"a": b"1", "b": b"2"}, 10)

    assert await cache.get(["b", "nothing", "a", "b"]) == [b"2", None, b"1", b"2"]


async def test_asking_for_nothing_gives_nothing(cache: Cache) -> None:
    await cache.set({}, 10)

    assert await cache.get([]) == []
    assert await cache.fields([]) == []


async def test_an_empty_value_is_not_absence(cache: Cache) -> None:
    await cache.set({"a": b""}, 10)

    assert await cache.get(["a"]) == [b""]


async def test_a_value_runs_out_after_its_time(cache_rig: CacheRig) -> None:
    cache = cache_rig.cache
    await cache.set({"a": b"1"}, 10)

    await cache_rig.pass_time(9.5)
    assert await cache.get(["a"]) == [b"1"]
    await cache_rig.pass_time(0.6)
    assert await cache.get(["a"]) == [None]


async def test_setting_again_replaces_value_and_time(cache_rig: CacheRig) -> None:
    cache = cache_rig.cache
    await cache.set({"longer": b"1", "shorter": b"1"}, 10)
    await cache.set({"longer": b"2"}, 20)
    await cache.set({"shorter": b"2"}, 5)

    await cache_rig.pass_time(6)
    assert await cache.get(["longer", "shorter"]) == [b"2", None]
    await cache_rig.pass_time(6)
    assert await cache.get(["longer"]) == [b"2"]


async def test_compare_and_set_stores_only_on_a_match(cache: Cache) -> None:
    await cache.set({"a": b"1"}, 10)

    assert not await cache.compare_and_set("a", b"other", b"2", 10)
    assert await cache.get(["a"]) == [b"1"]
    assert await cache.compare_and_set("a", b"1", b"2", 10)
    assert await cache.get(["a"]) == [b"2"]


async def test_compare_and_set_expecting_absence_makes_a_key_once(cache: Cache) -> None:
    assert await cache.compare_and_set("a", None, b"1", 10)
    assert not await cache.compare_and_set("a", None, b"2", 10)

    assert await cache.get(["a"]) == [b"1"]


async def test_compare_and_set_to_none_deletes(cache: Cache) -> None:
    await cache.set({"a": b"1"}, 10)

    assert not await cache.compare_and_set("a", b"other", None, 10)
    assert await cache.compare_and_set("a", b"1", None, 10)
    assert await cache.get(["a"]) == [None]
    assert await cache.compare_and_set("a", None, None, 10)


async def test_what_has_run_out_is_absent_for_compare_and_set(cache_rig: CacheRig) -> None:
    cache = cache_rig.cache
    await cache.set({"a": b"1"}, 10)
    await cache_rig.pass_time(11)

    assert not await cache.compare_and_set("a", b"1", b"2", 10)
    assert await cache.compare_and_set("a", None, b"3", 10)
    assert await cache.get(["a"]) == [b"3"]


async def test_compare_and_set_gives_a_new_time(cache_rig: CacheRig) -> None:
    cache = cache_rig.cache
    await cache.set({"a": b"1"}, 10)
    await cache.compare_and_set("a", b"1", b"1", 30)

    await cache_rig.pass_time(20)

    assert await cache.get(["a"]) == [b"1"]


async def test_delete_removes_values_and_maps_and_is_no_error_for_what_is_absent(cache: Cache) -> None:
    await cache.set({"a": b"1", "b": b"2"}, 10)
    await cache.put_field("m", "f", b"3", 10)

    await cache.delete(["a", "nothing", "m"])

    assert await cache.get(["a", "b"]) == [None, b"2"]
    assert await cache.fields(["m"]) == [{}]


async def test_a_value_replaces_a_map_and_a_map_a_value(cache: Cache) -> None:
    await cache.put_field("a", "f", b"1", 10)
    await cache.set({"b": b"2"}, 10)

    assert await cache.get(["a"]) == [None]
    assert await cache.fields(["b"]) == [{}]
    assert not await cache.delete_field("b", "f")

    assert await cache.compare_and_set("a", None, b"3", 10)
    await cache.put_field("b", "f", b"4", 10)

    assert await cache.get(["a", "b"]) == [b"3", None]
    assert await cache.fields(["a", "b"]) == [{}, {"f": b"4"}]


async def test_more_keys_than_travel_at_once_are_all_served(cache: Cache) -> None:
    keys = [str(n) for n in range(2_500)]
    await cache.set({key: key.encode() for key in keys}, 10)

    assert await cache.get(keys) == [key.encode() for key in keys]
    await cache.delete(keys)
    assert await cache.get(keys) == [None] * 2_500
    assert await cache.fields(keys) == [{}] * 2_500


async def test_fields_of_a_map_come_together(cache: Cache) -> None:
    await cache.put_field("m", "f", b"1", 10)
    await cache.put_field("m", "g", b"2", 10)
    await cache.put_field("m", "f", b"3", 10)
    await cache.put_field("n", "f", b"4", 10)

    assert await cache.fields(["n", "nothing", "m"]) == [{"f": b"4"}, {}, {"f": b"3", "g": b"2"}]


async def test_each_field_runs_out_by_itself(cache_rig: CacheRig) -> None:
    cache = cache_rig.cache
    await cache.put_field("m", "long", b"1", 20)
    await cache.put_field("m", "short", b"2", 5)

    await cache_rig.pass_time(6)
    assert await cache.fields(["m"]) == [{"long": b"1"}]
    await cache.put_field("m", "new", b"3", 20)
    await cache_rig.pass_time(15)
    assert await cache.fields(["m"]) == [{"new": b"3"}]


async def test_a_field_that_ran_out_cannot_be_deleted(cache_rig: CacheRig) -> None:
    await cache_rig.cache.put_field("m", "f", b"1", 5)
    await cache_rig.pass_time(6)

    assert not await cache_rig.cache.delete_field("m", "f")


async def test_delete_field_tells_whether_it_did(cache: Cache) -> None:
    await cache.put_field("m", "f", b"1", 10)
    await cache.put_field("m", "g", b"2", 10)

    assert not await cache.delete_field("m", "nothing")
    assert not await cache.delete_field("nothing", "f")
    assert not await cache.delete_field("m", "f", b"other")
    assert await cache.delete_field("m", "f", b"1")
    assert await cache.delete_field("m", "g")
    assert await cache.fields(["m"]) == [{}]


async def test_an_empty_expected_field_is_compared(cache: Cache) -> None:
    await cache.put_field("m", "f", b"1", 10)

    assert not await cache.delete_field("m", "f", b"")


async def test_a_map_gives_at_most_256_fields_and_keeps_the_newest(cache: Cache) -> None:
    for n in range(300):
        await cache.put_field("m", str(n), b"", 10 + n)

    (fields,) = await cache.fields(["m"])

    assert set(fields) == {str(n) for n in range(44, 300)}


async def test_a_key_of_256_bytes_is_taken_and_a_longer_one_refused(cache: Cache) -> None:
    await cache.set({"k" * 256: b"1"}, 10)

    with pytest.raises(InvalidArgument):
        await cache.set({"é" * 129: b"1"}, 10)
    with pytest.raises(InvalidArgument):
        await cache.put_field("k" * 257, "f", b"1", 10)
    assert await cache.get(["k" * 256]) == [b"1"]


@pytest.mark.parametrize("ttl_s", [0, -1])
async def test_a_time_to_live_must_be_more_than_zero(cache: Cache, ttl_s: float) -> None:
    with pytest.raises(InvalidArgument):
        await cache.set({"a": b"1"}, ttl_s)
    with pytest.raises(InvalidArgument):
        await cache.put_field("m", "f", b"1", ttl_s)
    with pytest.raises(InvalidArgument):
        await cache.compare_and_set("a", None, b"1", ttl_s)


LATER_CALLS: dict[str, Callable[[Cache], Awaitable[object]]] = {
    "get": lambda cache: cache.get(["a"]),
    "set": lambda cache: cache.set({"a": b"1"}, 1),
    "compare_and_set": lambda cache: cache.compare_and_set("a", None, b"1", 1),
    "delete": lambda cache: cache.delete(["a"]),
    "put_field": lambda cache: cache.put_field("a", "f", b"1", 1),
    "fields": lambda cache: cache.fields(["a"]),
    "delete_field": lambda cache: cache.delete_field("a", "f"),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_cache_is_unavailable(cache: Cache, call: Callable[[Cache], Awaitable[object]]) -> None:
    await cache.close()
    await cache.close()

    with pytest.raises(Unavailable) as caught:
        await call(cache)

    assert caught.value.reason == "ENGINE_DOWN"
