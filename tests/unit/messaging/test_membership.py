"""Remembered answers of the directory."""

import asyncio
from dataclasses import dataclass, field

import pytest

from discovery.errors import DeadlineExceeded, PermissionDenied, Unavailable
from discovery.ids import direct_conversation_id
from services.messaging.membership import CHANGES_TOPIC, Members, Memberships
from services.messaging.settings import MessagingSettings
from tests.support.clock import ManualClock

SETTINGS = MessagingSettings(membership_ttl_s=30, membership_stale_s=300, most_memberships=2)


@dataclass
class Directory:
    members: Members = ("ann", "ben")
    failures: list[Exception] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def resolve(self, conversation_id: str, sender_id: str, peer_id: str) -> Members:
        self.asked.append((conversation_id, sender_id, peer_id))
        answer = self.members
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        return answer


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memberships(directory: Directory, clock: ManualClock) -> Memberships:
    return Memberships(directory.resolve, clock, SETTINGS)


async def test_an_answer_is_used_again_until_its_time_is_over(
    directory: Directory, memberships: Memberships, clock: ManualClock
) -> None:
    await memberships.members("g.1", "ann")
    clock.advance(29)
    await memberships.members("g.1", "ann")
    assert len(directory.asked) == 1

    clock.advance(2)
    await memberships.members("g.1", "ann")

    assert len(directory.asked) == 2


async def test_an_answer_for_one_sender_says_nothing_about_another(
    directory: Directory, memberships: Memberships
) -> None:
    await memberships.members("g.1", "ann")
    directory.failures = [PermissionDenied(reason="BLOCKED")]

    with pytest.raises(PermissionDenied):
        await memberships.members("g.1", "ben")


async def test_concurrent_misses_share_one_call(directory: Directory, memberships: Memberships) -> None:
    answers = await asyncio.gather(*(memberships.members("g.1", "ann") for _ in range(10)))

    assert len(directory.asked) == 1
    assert answers == [("ann", "ben")] * 10


async def test_a_refusal_is_shared_and_not_remembered(directory: Directory, memberships: Memberships) -> None:
    directory.failures = [PermissionDenied(reason="NOT_A_MEMBER")]

    refused = await asyncio.gather(*(memberships.members("g.1", "ann") for _ in range(3)), return_exceptions=True)

    assert all(isinstance(error, PermissionDenied) for error in refused)
    assert await memberships.members("g.1", "ann") == ("ann", "ben")


async def test_who_waits_asks_again_when_the_one_who_asked_ran_out_of_time(
    directory: Directory, memberships: Memberships
) -> None:
    directory.failures = [DeadlineExceeded()]

    first, second = await asyncio.gather(
        memberships.members("g.1", "ann"), memberships.members("g.1", "ann"), return_exceptions=True
    )

    assert isinstance(first, DeadlineExceeded)
    assert second == ("ann", "ben")


async def test_who_waits_asks_again_when_the_one_who_asked_is_cancelled(
    directory: Directory, memberships: Memberships
) -> None:
    directory.gate = asyncio.Event()
    first = asyncio.create_task(memberships.members("g.1", "ann"))
    second = asyncio.create_task(memberships.members("g.1", "ann"))
    await asyncio.sleep(0)
    first.cancel()
    directory.gate.set()

    assert await second == ("ann", "ben")


@pytest.mark.parametrize(
    ("conversation_id", "news"),
    [
        ("g.1", b"conversation g.1"),
        ("g.1", b"conversation g.0\nconversation g.1\n"),
        (direct_conversation_id("ann", "ben"), b"friends ben ann"),
    ],
)
async def test_a_change_holds_at_once(
    directory: Directory, memberships: Memberships, conversation_id: str, news: bytes
) -> None:
    await memberships.members(conversation_id, "ann")
    directory.failures = [PermissionDenied(reason="BLOCKED")]
    memberships.changed(CHANGES_TOPIC, news)

    with pytest.raises(PermissionDenied):
        await memberships.members(conversation_id, "ann")


async def test_an_answer_from_before_a_change_is_not_remembered_after_it(
    directory: Directory, memberships: Memberships
) -> None:
    directory.gate = asyncio.Event()
    before = asyncio.create_task(memberships.members("g.1", "ann"))
    await asyncio.sleep(0)
    directory.members = ("ann", "cat")
    memberships.changed(CHANGES_TOPIC, b"conversation g.1")
    after = asyncio.create_task(memberships.members("g.1", "ann"))
    await asyncio.sleep(0)
    directory.gate.set()

    assert (await before, await after) == (("ann", "ben"), ("ann", "cat"))
    assert await memberships.members("g.1", "ann") == ("ann", "cat")


async def test_an_old_answer_serves_for_a_while_when_the_directory_is_away(
    directory: Directory, memberships: Memberships, clock: ManualClock
) -> None:
    await memberships.members("g.1", "ann")
    directory.failures = [Unavailable(), Unavailable()]
    clock.advance(299)
    assert await memberships.members("g.1", "ann") == ("ann", "ben")

    clock.advance(2)

    with pytest.raises(Unavailable):
        await memberships.members("g.1", "ann")


async def test_the_conversation_that_was_quiet_for_longest_is_forgotten_first(
    directory: Directory, memberships: Memberships
) -> None:
    for conversation_id in ("g.1", "g.2", "g.3"):
        await memberships.members(conversation_id, "ann")

    await memberships.members("g.3", "ann")
    await memberships.members("g.1", "ann")

    assert [asked[0] for asked in directory.asked] == ["g.1", "g.2", "g.3", "g.1"]


async def test_who_is_blocked_may_read_but_learns_nothing_of_the_other(
    directory: Directory, memberships: Memberships
) -> None:
    directory.failures = [PermissionDenied(reason="BLOCKED")]

    assert await memberships.readers("d.1", "ann") == ("ann",)


async def test_after_a_gap_in_the_news_every_answer_is_asked_for_again(
    directory: Directory, memberships: Memberships, clock: ManualClock
) -> None:
    await memberships.members("g.1", "ann")
    directory.members = ("ann", "ben", "cem")

    memberships.missed(CHANGES_TOPIC)
    clock.advance(1)

    assert await memberships.members("g.1", "ann") == ("ann", "ben", "cem")
    await memberships.members("g.1", "ann")
    assert len(directory.asked) == 2


async def test_after_a_gap_an_old_answer_still_serves_while_the_directory_is_away(
    directory: Directory, memberships: Memberships
) -> None:
    await memberships.members("g.1", "ann")
    directory.failures = [Unavailable("away")]

    memberships.missed(CHANGES_TOPIC)

    assert await memberships.members("g.1", "ann") == ("ann", "ben")
