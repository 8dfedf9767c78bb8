"""Sampled points for audit: off unless asked for, one in a while, under the session."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from discovery.errors import Unavailable
from services.location.live_settings import LiveSettings
from services.ports.location_history import FixRow, LocationHistory
from services.storage.sqlite.history import SqliteLocationHistory
from tests.unit.location.live_desk import Desk, World


@pytest.fixture
async def history(world: World, tmp_path: Path) -> AsyncIterator[LocationHistory]:
    history = await SqliteLocationHistory.open(tmp_path / "history.db", world.clock)
    yield history
    await history.close()


def auditing(world: World, history: LocationHistory, every_s: float) -> Desk:
    return Desk(world, LiveSettings(audit_every_s=every_s), history)


async def kept(history: LocationHistory, of: str = "g.1~a") -> list[float]:
    return [row.lat for row in await history.read(of, 0, 1 << 60, 100)]


async def test_one_point_in_a_while_is_kept_under_its_session(world: World, history: LocationHistory) -> None:
    desk = auditing(world, history, 180.0)
    for minute in range(7):
        await desk.move(float(minute))
        await desk.wait(60)

    assert await kept(history) == [6.0, 3.0, 0.0]
    assert await kept(history, "ann") == []
    [newest, *_] = await history.read("g.1~a", 0, 1 << 60, 1)
    assert newest == FixRow("g.1~a", world.clock.now_ms() - 60_000, 6.0, -6.0)


async def test_nothing_is_kept_unless_it_is_asked_for(world: World, history: LocationHistory) -> None:
    await auditing(world, history, 0.0).move(1.0)

    assert await kept(history) == []


async def test_of_an_opaque_live_location_nothing_is_kept(world: World, history: LocationHistory) -> None:
    world.sessions.start("g.1~a", "ann", opaque=True)

    await auditing(world, history, 1.0).move(0.0, ciphertext=b"sealed")

    assert await kept(history) == []


async def test_a_history_that_is_away_holds_up_no_point_and_gets_it_later(
    world: World, history: LocationHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = auditing(world, history, 1.0)
    await desk.watch("ben")

    async def away(_: object) -> NoReturn:
        raise Unavailable("The history is away.")

    with monkeypatch.context() as patch:
        patch.setattr(history, "append", away)
        await desk.move(1.0)
    assert desk.lats() == [1.0]
    await desk.live.step()

    assert await kept(history) == [1.0]
