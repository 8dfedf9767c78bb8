"""How users want to be woken up: settings and muted conversations."""

import asyncio

import pytest

from discovery.errors import InvalidArgument, ResourceExhausted
from hither.push.v1.push_pb2 import PUSH_PREVIEW_NOTHING, PUSH_PREVIEW_SENDER, PUSH_PREVIEW_TEXT, PushSettings
from hither.push.v1.push_service_pb2 import UnmuteConversationRequest
from tests.unit.push.conftest import PushDesk

HOUR_MS = 3_600_000


async def test_nothing_is_shown_and_no_hour_is_quiet_at_first(desk: PushDesk) -> None:
    assert await desk.settings() == PushSettings(preview=PUSH_PREVIEW_NOTHING, time_zone="UTC")


async def test_what_is_left_out_of_a_change_stays(desk: PushDesk) -> None:
    await desk.update(quiet_from_min=1320, quiet_to_min=420, time_zone="Europe/Berlin")
    changed = await desk.update(preview=PUSH_PREVIEW_TEXT)

    expected = PushSettings(preview=PUSH_PREVIEW_TEXT, quiet_from_min=1320, quiet_to_min=420, time_zone="Europe/Berlin")
    assert changed == await desk.settings() == expected
    assert await desk.settings("bob") == PushSettings(preview=PUSH_PREVIEW_NOTHING, time_zone="UTC")


async def test_quiet_hours_end_by_being_set_to_midnight(desk: PushDesk) -> None:
    await desk.update(quiet_from_min=1320, quiet_to_min=420)

    settings = await desk.update(quiet_from_min=0, quiet_to_min=0)

    assert (settings.quiet_from_min, settings.quiet_to_min) == (0, 0)


async def test_changes_at_once_are_all_done(desk: PushDesk) -> None:
    await asyncio.gather(
        desk.update(preview=PUSH_PREVIEW_SENDER), desk.update(quiet_from_min=60), desk.update(time_zone="Asia/Tokyo")
    )

    assert await desk.settings() == PushSettings(preview=PUSH_PREVIEW_SENDER, quiet_from_min=60, time_zone="Asia/Tokyo")


@pytest.mark.parametrize("name", ["Europe/Atlantis", "localtime", "Factory", "posix/UTC", "../UTC", "utc"])
async def test_a_time_zone_that_is_none_is_refused(desk: PushDesk, name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await desk.update(time_zone=name, preview=PUSH_PREVIEW_TEXT)

    assert refused.value.violations[0].field == "time_zone"
    assert (await desk.settings()).preview == PUSH_PREVIEW_NOTHING


async def test_a_conversation_is_muted_until_further_notice(desk: PushDesk) -> None:
    mute = await desk.mute("g.1")
    desk.clock.advance(1e9)

    assert not mute.HasField("until")
    assert list((await desk.mutes()).mutes) == [mute]
    await desk.servicer.UnmuteConversation(UnmuteConversationRequest(user_id="ann", conversation_id="g.1"), None)
    await desk.servicer.UnmuteConversation(UnmuteConversationRequest(user_id="ann", conversation_id="g.1"), None)
    assert await desk.muted() == []


async def test_a_mute_with_an_end_is_listed_until_then(desk: PushDesk) -> None:
    until_ms = desk.clock.now_ms() + HOUR_MS
    mute = await desk.mute("g.1", until_ms)

    assert mute.until.ToMilliseconds() == until_ms
    assert await desk.muted() == ["g.1"]
    desk.clock.advance(3600)
    assert await desk.muted() == []


@pytest.mark.parametrize("until_ms", [0, 1, -5, 1_790_000_000_000])
async def test_a_mute_that_has_ended_already_is_refused(desk: PushDesk, until_ms: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await desk.mute("g.1", until_ms)

    assert refused.value.violations[0].field == "until"
    assert (await desk.store.preferences(["ann"]))["ann"].mutes == {}


async def test_a_mute_too_many_is_refused_but_those_that_have_ended_do_not_count(desk: PushDesk) -> None:
    await desk.mute("g.1", desk.clock.now_ms() + HOUR_MS)
    await desk.mute("g.2")
    await desk.mute("g.3")

    with pytest.raises(ResourceExhausted) as refused:
        await desk.mute("g.4")
    desk.clock.advance(3600)
    await desk.mute("g.4")

    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert await desk.muted() == ["g.2", "g.3", "g.4"]


async def test_mutes_are_listed_page_by_page(desk: PushDesk) -> None:
    for conversation_id in ("g.c", "d.a", "g.b"):
        await desk.mute(conversation_id)

    first = await desk.mutes(page_size=2)
    second = await desk.mutes(page_size=2, page_token=first.next_page_token)

    assert [mute.conversation_id for mute in first.mutes] == ["d.a", "g.b"]
    assert ([mute.conversation_id for mute in second.mutes], second.next_page_token) == (["g.c"], "")
