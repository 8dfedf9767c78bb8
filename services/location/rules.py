"""What this instance knows of the rules of the users whose news come: never shown more than they allow, as far as anybody said.

Each news of a user says as of which version of the user's privacy it was sent. Who has heard of a newer version than is known
here is stale: nobody sees such a user until the rules were read again. Only one task loads; anybody may ask and hear.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from services.location.consent import seen_by
from services.ports.privacy_store import GrantRow, Precision, PrivacyRow, PrivacyStore

_MOST_IDS = 1_000
_GRANTS_A_PAGE = 1_000


@dataclass(slots=True)
class _Rules:
    row: PrivacyRow
    grants: dict[str, GrantRow] = field(default_factory=dict)
    """By viewer: those of all who follow here, or more."""


class KnownRules:
    """Rules by user. The loading methods raise what the store raises, and TimeoutError; then what was stale stays so."""

    def __init__(self, store: PrivacyStore, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._rules: dict[str, _Rules] = {}
        self._heard: dict[str, int] = {}
        """The newest version of each user that anybody spoke of."""
        self._stale: dict[str, None] = {}

    def hear(self, user_id: str, version: int) -> bool:
        """Somebody speaks of this version of a user whose news come; tells whether it is news."""
        if version > self._heard.get(user_id, 0):
            self._heard[user_id] = version
        rules = self._rules.get(user_id)
        if rules is None or self._heard.get(user_id, 0) <= rules.row.version:
            return False
        self._stale[user_id] = None
        return True

    def doubt(self, user_id: str) -> None:
        """News of the user may have been missed."""
        if user_id in self._rules:
            self._stale[user_id] = None

    def row(self, user_id: str) -> PrivacyRow | None:
        """The user's own decisions, if they are known and not stale."""
        rules = self._rules.get(user_id)
        return None if rules is None or user_id in self._stale else rules.row

    def precision(self, owner_id: str, viewer_id: str, now_ms: int) -> Precision:
        """How exactly the viewer, a friend, may know where the owner is."""
        if owner_id in self._stale or viewer_id in self._stale:
            return Precision.HIDDEN
        owner, viewer = self._rules.get(owner_id), self._rules.get(viewer_id)
        if owner is None or viewer is None:
            return Precision.HIDDEN
        return seen_by(owner.row, viewer.row, owner.grants.get(viewer_id), now_ms)

    def ends_ms(self, owner_id: str) -> Iterable[int]:
        """When grants of the owner run out."""
        rules = self._rules.get(owner_id)
        return {grant.expires_ms for grant in rules.grants.values() if grant.expires_ms} if rules else ()

    def stale(self) -> Sequence[str]:
        """Users whose rules are to be read again."""
        return list(self._stale)

    def forget(self, user_id: str) -> None:
        """News of the user come no more."""
        for known in (self._rules, self._heard, self._stale):
            known.pop(user_id, None)

    async def grants_for(self, viewer_id: str, owner_ids: Sequence[str]) -> dict[str, GrantRow]:
        """The viewer's grants of these owners, by owner, as they are now."""
        found: dict[str, GrantRow] = {}
        for start in range(0, len(owner_ids), _MOST_IDS):
            async with asyncio.timeout(self._timeout_s):
                found.update(await self._store.grants_for(viewer_id, owner_ids[start : start + _MOST_IDS]))
        return found

    async def load_viewer(self, viewer_id: str, owner_ids: Collection[str]) -> None:
        """Gets to know what the viewer may see of these owners, all of whose news come."""
        owners = list(owner_ids)
        await self._read_rows([viewer_id, *owners])
        # Read after the rows, so that they are not older than the versions that these say.
        grants = await self.grants_for(viewer_id, owners)
        for owner_id in owners:
            rules = self._rules.get(owner_id)
            if rules is not None:
                _put(rules.grants, viewer_id, grants.get(owner_id))

    async def reload(self, user_ids: Collection[str]) -> None:
        """Reads the rules of the users (at most 1,000) again, with all their grants."""
        async with asyncio.timeout(self._timeout_s):
            rows = await self._store.privacy(user_ids)
        for user_id, row in rows.items():
            grants = await self._grants_of(user_id)
            if user_id in self._rules:
                self._rules[user_id] = _Rules(row, grants)
                if row.version >= self._heard.get(user_id, 0):
                    self._stale.pop(user_id, None)

    async def _read_rows(self, user_ids: Sequence[str]) -> None:
        rows: dict[str, PrivacyRow] = {}
        for start in range(0, len(user_ids), _MOST_IDS):
            async with asyncio.timeout(self._timeout_s):
                rows.update(await self._store.privacy(user_ids[start : start + _MOST_IDS]))
        for user_id, row in rows.items():
            known = self._rules.get(user_id)
            if known is None:
                self._rules[user_id] = _Rules(row)
            # The grants of others may be older than this row: they are all read again if it is new.
            self.hear(user_id, row.version)

    async def _grants_of(self, owner_id: str) -> dict[str, GrantRow]:
        # All of them: who is no friend now may be one a moment later, without another change of the rules.
        found: dict[str, GrantRow] = {}
        after = ""
        while True:
            async with asyncio.timeout(self._timeout_s):
                page = await self._store.grants_by(owner_id, after, _GRANTS_A_PAGE)
            found.update((grant.viewer_id, grant) for grant in page)
            if len(page) < _GRANTS_A_PAGE:
                return found
            after = page[-1].viewer_id


def _put(grants: dict[str, GrantRow], viewer_id: str, grant: GrantRow | None) -> None:
    if grant is None:
        grants.pop(viewer_id, None)
    else:
        grants[viewer_id] = grant
