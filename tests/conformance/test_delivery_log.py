"""What every log of push deliveries promises."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from discovery.errors import Unavailable
from services.ports.push_store import KEPT_DELIVERIES, DeliveryLog, DeliveryRow, Fate
from tests.conformance.conftest import DeliveryLogRig

NOT_MANY_MORE = KEPT_DELIVERIES // 2


def delivery(at_ms: int, push_id: str = "", device: str = "phone", user: str = "ann") -> DeliveryRow:
    return DeliveryRow(
        user_id=user,
        device_id=device,
        push_id=push_id or f"p{at_ms}",
        at_ms=at_ms,
        fate=Fate.REFUSED,
        reason="BadDeviceToken",
        kind="direct",
        conversation_id="d.1",
        messages=3,
        collapse_id="c",
        attempts=2,
        latency_ms=12,
    )


async def places(log: DeliveryLog, limit: int = 1_000, device: str = "phone") -> list[tuple[int, str]]:
    return [(row.at_ms, row.push_id) for row in await log.read("ann", device, None, limit)]


async def test_entries_are_read_as_they_were_recorded_newest_first(delivery_log: DeliveryLog) -> None:
    rows = [delivery(1_790_000_000_001), delivery(1_790_000_000_003), delivery(1_790_000_000_002)]
    await delivery_log.record([*rows, delivery(9, device="laptop"), delivery(9, user="bob")])

    assert await delivery_log.read("ann", "phone", None, 10) == [rows[1], rows[2], rows[0]]
    assert await delivery_log.read("ann", "unknown", None, 10) == []
    assert await delivery_log.read("ann", "phone", None, 0) == []


async def test_entries_of_one_moment_are_in_order_of_push_id_and_paged_within_it(delivery_log: DeliveryLog) -> None:
    ids = ["a", "_", "B", "b", "A"]
    await delivery_log.record([delivery(5, push_id) for push_id in ids] + [delivery(4, "z"), delivery(6, "0")])

    pages = [await delivery_log.read("ann", "phone", None, 2)]
    while pages[-1]:
        last = pages[-1][-1]
        pages.append(await delivery_log.read("ann", "phone", (last.at_ms, last.push_id), 2))

    assert [row.push_id for page in pages for row in page] == ["0", *sorted(ids, reverse=True), "z"]


async def test_a_push_that_is_recorded_again_is_replaced(delivery_log: DeliveryLog) -> None:
    await delivery_log.record([delivery(5, "a"), delivery(6, "b")])
    later = replace(delivery(7, "a"), fate=Fate.ACCEPTED, reason="", attempts=3, latency_ms=40, messages=4)

    await delivery_log.record([later])
    await delivery_log.record([later])

    assert await delivery_log.read("ann", "phone", None, 10) == [later, delivery(6, "b")]


async def test_of_one_push_twice_in_a_batch_the_last_one_stays(delivery_log: DeliveryLog) -> None:
    await delivery_log.record([delivery(5, "a"), delivery(9, "b"), delivery(7, "a")])

    assert await places(delivery_log) == [(9, "b"), (7, "a")]


async def test_a_device_keeps_its_newest_entries_and_not_many_more(delivery_log: DeliveryLog) -> None:
    for at_ms in range(1, 600, 6):
        await delivery_log.record([delivery(at_ms + n) for n in range(6)])
        await delivery_log.record([delivery(1, device="laptop")])

    found = [at_ms for at_ms, _ in await places(delivery_log)]

    assert found == list(range(600, 600 - len(found), -1))
    assert KEPT_DELIVERIES <= len(found) <= KEPT_DELIVERIES + NOT_MANY_MORE
    assert await places(delivery_log, device="laptop") == [(1, "p1")]


async def test_a_large_batch_is_trimmed_as_it_is_written(delivery_log: DeliveryLog) -> None:
    await delivery_log.record([delivery(n) for n in range(1, 1_001)])

    assert [at_ms for at_ms, _ in await places(delivery_log)] == list(range(1_000, 1_000 - KEPT_DELIVERIES, -1))


async def test_what_another_process_left_is_trimmed_too(delivery_log_rig: DeliveryLogRig) -> None:
    for start in range(0, 1_000, 40):
        log = await delivery_log_rig.open()
        await log.record([delivery(start + n) for n in range(40)])
        await log.close()

    log = await delivery_log_rig.open()
    assert KEPT_DELIVERIES <= len(await places(log)) <= KEPT_DELIVERIES + NOT_MANY_MORE


async def test_a_batch_for_many_devices_is_recorded_whole(delivery_log: DeliveryLog) -> None:
    rows = [delivery(1, device=f"d{n}") for n in range(1_000)]

    await asyncio.gather(delivery_log.record(rows), delivery_log.record(rows[::-1]))

    assert [await places(delivery_log, device=f"d{n}") for n in (0, 500, 999)] == [[(1, "p1")]] * 3
    await delivery_log.record([])


async def test_a_forgotten_device_has_no_entries_and_the_others_keep_theirs(delivery_log: DeliveryLog) -> None:
    await delivery_log.record([delivery(1), delivery(2), delivery(3, device="laptop"), delivery(4, user="bob")])

    await delivery_log.forget("ann", "phone")
    await delivery_log.forget("ann", "phone")

    assert await places(delivery_log) == []
    assert await places(delivery_log, device="laptop") == [(3, "p3")]
    assert await delivery_log.read("bob", "phone", None, 1) == [delivery(4, user="bob")]


async def test_what_was_recorded_survives_reopening(delivery_log_rig: DeliveryLogRig) -> None:
    log = await delivery_log_rig.open()
    await log.record([delivery(1)])

    log = await delivery_log_rig.reopen(log)

    assert await places(log) == [(1, "p1")]


LATER_CALLS: dict[str, Callable[[DeliveryLog], Awaitable[object]]] = {
    "record": lambda log: log.record([delivery(1)]),
    "read": lambda log: log.read("ann", "phone", None, 1),
    "forget": lambda log: log.forget("ann", "phone"),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_log_is_unavailable(
    delivery_log: DeliveryLog, call: Callable[[DeliveryLog], Awaitable[object]]
) -> None:
    await delivery_log.close()
    await delivery_log.close()

    with pytest.raises(Unavailable) as caught:
        await call(delivery_log)

    assert caught.value.reason == "ENGINE_DOWN"
