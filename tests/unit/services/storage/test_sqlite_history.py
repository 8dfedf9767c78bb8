"""What only the history on SQLite does: it lets go of what has run out by itself."""

import sqlite3
from pathlib import Path

from services.ports.location_history import KEPT_MS, FixRow
from services.storage.sqlite.history import SqliteLocationHistory
from tests.support.clock import ManualClock


def rows(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM fixes").fetchone()
    return int(count)


async def test_fixes_that_have_run_out_are_deleted_by_later_writes(tmp_path: Path) -> None:
    clock = ManualClock()
    history = await SqliteLocationHistory.open(tmp_path / "history.db", clock)
    await history.append([FixRow("ann", clock.now_ms() - age, 48.2, 16.4) for age in range(100)])

    clock.advance(KEPT_MS / 1000)
    for _ in range(2):
        await history.append([FixRow("bob", clock.now_ms(), 48.2, 16.4)])
    await history.close()

    assert rows(tmp_path / "history.db") == 1
