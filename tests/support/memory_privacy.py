"""Privacy, history and the log of views in memory, for tests of one process: see the ports for what they stand in for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from discovery.errors import Aborted, HitherError
from services.ports.location_history import FixRow
from services.ports.privacy_store import GrantRow, PrivacyRow
from services.ports.view_log import ViewPlace, ViewRow


class _Fragile:
    """Raises what is in `fails` while there is something."""

    def __init__(self) -> None:
        self.fails: HitherError | None = None

    async def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


class MemoryPrivacyStore(_Fragile):
    """services.ports.privacy_store.PrivacyStore."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, PrivacyRow] = {}
        self.grants: dict[tuple[str, str], GrantRow] = {}
        self.reads = 0

    async def privacy(self, user_ids: Collection[str]) -> Mapping[str, PrivacyRow]:
        self._check()
        self.reads += 1
        assert len(user_ids) <= 1_000
        return {user_id: self.rows.get(user_id, PrivacyRow(user_id)) for user_id in user_ids}

    async def put_privacy(self, row: PrivacyRow, expected_version: int | None = None) -> int:
        self._check()
        version = self.rows.get(row.user_id, PrivacyRow(row.user_id)).version
        if expected_version not in (None, version):
            raise Aborted("changed")
        self.rows[row.user_id] = replace(row, version=version + 1)
        return version + 1

    async def put_grant(self, grant: GrantRow, most: int) -> int | None:
        self._check()
        others = [one for owner, one in self.grants if owner == grant.owner_id and one != grant.viewer_id]
        if len(others) >= most:
            return None
        self.grants[grant.owner_id, grant.viewer_id] = grant
        return self._raise(grant.owner_id)

    async def remove_grant(self, owner_id: str, viewer_id: str) -> int | None:
        self._check()
        return self._raise(owner_id) if self.grants.pop((owner_id, viewer_id), None) else None

    async def grants_for(self, viewer_id: str, owner_ids: Collection[str]) -> Mapping[str, GrantRow]:
        self._check()
        assert len(owner_ids) <= 1_000
        return {owner: grant for owner in owner_ids if (grant := self.grants.get((owner, viewer_id)))}

    async def grants_by(self, owner_id: str, after_viewer_id: str, limit: int) -> Sequence[GrantRow]:
        self._check()
        found = [
            grant for (owner, one), grant in sorted(self.grants.items()) if owner == owner_id and one > after_viewer_id
        ]
        return found[:limit]

    async def forget(self, user_id: str) -> None:
        self.rows.pop(user_id, None)
        self.grants = {pair: grant for pair, grant in self.grants.items() if user_id not in pair}

    def _raise(self, user_id: str) -> int:
        row = self.rows.get(user_id, PrivacyRow(user_id))
        self.rows[user_id] = replace(row, version=row.version + 1)
        return row.version + 1


class MemoryHistory(_Fragile):
    """services.ports.location_history.LocationHistory."""

    def __init__(self) -> None:
        super().__init__()
        self.fixes: list[FixRow] = []
        self.reads = 0

    async def append(self, fixes: Sequence[FixRow]) -> None:
        self._check()
        self.fixes += fixes

    async def read(self, user_id: str, after_ms: int, before_ms: int, limit: int) -> Sequence[FixRow]:
        self._check()
        found = [fix for fix in self.fixes if fix.user_id == user_id and after_ms < fix.time_ms < before_ms]
        return sorted(found, key=lambda fix: -fix.time_ms)[:limit]

    async def latest(self, user_ids: Collection[str], since_ms: int) -> Mapping[str, FixRow]:
        self._check()
        self.reads += 1
        found = sorted((fix.time_ms, fix) for fix in self.fixes if fix.user_id in user_ids and fix.time_ms >= since_ms)
        return {fix.user_id: fix for _, fix in found}

    async def forget(self, user_id: str) -> None:
        self.fixes = [fix for fix in self.fixes if fix.user_id != user_id]


class MemoryViewLog(_Fragile):
    """services.ports.view_log.ViewLog, which keeps everything for good."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, int, str], ViewRow] = {}

    async def record(self, views: Sequence[ViewRow]) -> None:
        self._check()
        for row in views:
            key = row.owner_id, row.slot_ms, row.viewer_id
            before = self.rows.get(key)
            if before is None or (before.last_ms, before.count) < (row.last_ms, row.count):
                self.rows[key] = row

    async def read(self, owner_id: str, after: ViewPlace | None, limit: int) -> Sequence[ViewRow]:
        self._check()
        rows = sorted(
            (row for row in self.rows.values() if row.owner_id == owner_id),
            key=lambda row: (-row.slot_ms, row.viewer_id),
        )
        if after is not None:
            place = -after.slot_ms, after.viewer_id
            rows = [row for row in rows if (-row.slot_ms, row.viewer_id) > place]
        return rows[:limit]

    async def forget(self, owner_id: str) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] != owner_id}
