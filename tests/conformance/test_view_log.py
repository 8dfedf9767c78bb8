"""The promises of ViewLog, over every adapter."""

from dataclasses import replace

import pytest

from discovery.errors import InvalidArgument, Unavailable
from services.ports.privacy_store import Precision
from services.ports.view_log import KEPT_MS, MOST_VIEWS, SLOT_MS, ViewLog, ViewPlace, ViewRow
from tests.conformance.conftest import ViewLogRig

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def slot_ms(view_log_rig: ViewLogRig) -> int:
    """A slot that was over a while ago."""
    return (view_log_rig.clock.now_ms() // SLOT_MS - 2) * SLOT_MS


def view(slot_ms: int, viewer_id: str = "bob", count: int = 1, owner_id: str = "ann") -> ViewRow:
    return ViewRow(owner_id, slot_ms, viewer_id, count, slot_ms + count, Precision.KILOMETRE)


async def test_entries_are_read_newest_first_and_of_one_slot_by_viewer(view_log: ViewLog, slot_ms: int) -> None:
    views = [view(slot_ms, "b"), view(slot_ms, "a"), view(slot_ms - SLOT_MS, "c"), view(slot_ms, "Z")]

    await view_log.record(views)

    assert await view_log.read("ann", None, 10) == [views[3], views[1], views[0], views[2]]


async def test_a_log_reaches_over_days_and_is_read_in_parts(view_log: ViewLog, slot_ms: int) -> None:
    views = [view(slot_ms - age * DAY_MS, viewer) for age in range(0, 30, 3) for viewer in ("a", "b", "c")]
    await view_log.record(views)

    found: list[ViewRow] = []
    place = None
    while page := await view_log.read("ann", place, 4):
        found += page
        place = ViewPlace(page[-1].slot_ms, page[-1].viewer_id)

    assert found == views


async def test_what_was_seen_last_stays_whichever_is_recorded_last(view_log: ViewLog, slot_ms: int) -> None:
    newest = replace(view(slot_ms, count=7), precision=Precision.EXACT)

    for one in (view(slot_ms, count=3), newest, view(slot_ms, count=5)):
        await view_log.record([one])
    await view_log.record([view(slot_ms, count=6), newest])

    assert await view_log.read("ann", None, 10) == [newest]


async def test_each_owner_has_a_log(view_log: ViewLog, slot_ms: int) -> None:
    await view_log.record([view(slot_ms), view(slot_ms, owner_id="eve")])

    assert await view_log.read("eve", None, 10) == [view(slot_ms, owner_id="eve")]
    assert await view_log.read("bob", None, 10) == []
    assert await view_log.read("ann", None, 0) == []


async def test_entries_run_out_after_thirty_days(view_log: ViewLog, view_log_rig: ViewLogRig) -> None:
    now_ms = view_log_rig.clock.now_ms()
    await view_log.record([view(now_ms - KEPT_MS + 1500, "soon"), view(now_ms - KEPT_MS - 1, "gone"), view(now_ms - 1)])
    assert [row.viewer_id for row in await view_log.read("ann", None, 10)] == ["bob", "soon"]

    await view_log_rig.pass_time(2)

    assert [row.viewer_id for row in await view_log.read("ann", None, 10)] == ["bob"]


async def test_a_log_that_is_forgotten_is_empty_and_can_begin_again(
    view_log: ViewLog, view_log_rig: ViewLogRig
) -> None:
    now_ms = view_log_rig.clock.now_ms()
    await view_log.record([view(now_ms - 5000), view(now_ms - 5000, owner_id="eve"), view(now_ms - 3 * DAY_MS)])

    await view_log.forget("ann")
    assert await view_log.read("ann", None, 10) == []
    await view_log_rig.pass_time(0.01)
    later = view(view_log_rig.clock.now_ms())
    await view_log.record([later])

    assert await view_log.read("ann", None, 10) == [later]
    assert len(await view_log.read("eve", None, 10)) == 1


async def test_more_than_the_most_are_refused(view_log: ViewLog, slot_ms: int) -> None:
    with pytest.raises(InvalidArgument):
        await view_log.record([view(slot_ms, f"v{number}") for number in range(MOST_VIEWS + 1)])
    with pytest.raises(InvalidArgument):
        await view_log.read("ann", None, MOST_VIEWS + 1)


async def test_entries_outlive_the_process(view_log: ViewLog, view_log_rig: ViewLogRig, slot_ms: int) -> None:
    await view_log.record([view(slot_ms)])

    again = await view_log_rig.reopen(view_log)

    assert await again.read("ann", None, 10) == [view(slot_ms)]


async def test_a_closed_log_is_unavailable(view_log: ViewLog, slot_ms: int) -> None:
    await view_log.close()
    await view_log.close()

    with pytest.raises(Unavailable):
        await view_log.record([view(slot_ms)])
    with pytest.raises(Unavailable):
        await view_log.read("ann", None, 10)
