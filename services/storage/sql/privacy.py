"""The privacy store on SQL.

A user's row is the lock of all that the user decides: whoever changes the row or the user's grants raises the row's version
first, and so is alone until the transaction ends. Statements name the one owner whose rows they are for, apart from the
search for grants that were made to a user who is forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Self, TypeVar

from sqlalchemy import Executable, Row, bindparam, delete, func, select, text, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from discovery.errors import Aborted, HitherError, Internal, ResourceExhausted, Unavailable
from services.ports.privacy_store import Audience, GrantRow, Precision, PrivacyRow
from services.storage.sql.admission import Admission
from services.storage.sql.directory import SqlSettings, engine_of
from services.storage.sql.engine import Engine, Statements
from services.storage.sql.migrations import PRIVACY, migrate
from services.storage.sql.schema import GRANTS, PRIVACY_ROWS

T = TypeVar("T")

_FORGOTTEN_AT_ONCE = 500

# Built once: to build a statement costs more than SQLite needs to run it.
_FIND = select(PRIVACY_ROWS).where(PRIVACY_ROWS.c.user_id.in_(bindparam("ids", expanding=True)))
_PUT = text("""
    INSERT INTO privacy (user_id, presence, last_seen, shares_location, default_precision, version)
    VALUES (:user_id, :presence, :last_seen, :shares_location, :default_precision, 1)
    ON CONFLICT (user_id) DO UPDATE SET presence = excluded.presence, last_seen = excluded.last_seen,
        shares_location = excluded.shares_location, default_precision = excluded.default_precision,
        version = privacy.version + 1
    RETURNING version""")
_RAISE_VERSION = text("""
    INSERT INTO privacy (user_id, presence, last_seen, shares_location, default_precision, version)
    VALUES (:user_id, :presence, :last_seen, :shares_location, :default_precision, 1)
    ON CONFLICT (user_id) DO UPDATE SET version = privacy.version + 1
    RETURNING version""")
_OTHER_GRANTS = select(func.count()).where(
    GRANTS.c.owner_id == bindparam("owner"), GRANTS.c.viewer_id != bindparam("viewer")
)
_PUT_GRANT = text("""
    INSERT INTO grants (owner_id, viewer_id, "precision", expires_ms)
    VALUES (:owner_id, :viewer_id, :precision, :expires_ms)
    ON CONFLICT (owner_id, viewer_id) DO UPDATE SET "precision" = excluded."precision", expires_ms = excluded.expires_ms""")
_REMOVE_GRANT = delete(GRANTS).where(GRANTS.c.owner_id == bindparam("owner"), GRANTS.c.viewer_id == bindparam("viewer"))
_FOR_VIEWER = select(GRANTS).where(
    GRANTS.c.owner_id.in_(bindparam("owners", expanding=True)), GRANTS.c.viewer_id == bindparam("viewer")
)
_BY_OWNER = (
    select(GRANTS)
    .where(GRANTS.c.owner_id == bindparam("owner"), GRANTS.c.viewer_id > bindparam("after"))
    .order_by(GRANTS.c.viewer_id)
    .limit(bindparam("most"))
)
_GRANTORS = (
    select(GRANTS.c.owner_id)
    .where(GRANTS.c.viewer_id == bindparam("viewer"), GRANTS.c.owner_id > bindparam("after"))
    .order_by(GRANTS.c.owner_id)
    .limit(bindparam("most"))
)
_FORGET_ROW = delete(PRIVACY_ROWS).where(PRIVACY_ROWS.c.user_id == bindparam("user"))
_FORGET_GRANTS = delete(GRANTS).where(GRANTS.c.owner_id == bindparam("user"))
_RAISE_EXISTING = (
    update(PRIVACY_ROWS).where(PRIVACY_ROWS.c.user_id == bindparam("owner")).values(version=PRIVACY_ROWS.c.version + 1)
)


class SqlPrivacyStore:
    """See services.ports.privacy_store.PrivacyStore. Made by `open`.

    A write whose commit broke or took too long raises Unavailable (OUTCOME_UNKNOWN); more calls than may wait, or a pool that
    stays empty, ResourceExhausted.
    """

    def __init__(self, engine: Engine, settings: SqlSettings) -> None:
        self._engine = engine
        self._timeout_s = settings.transaction_timeout_s
        self._admission = Admission(settings.waiting_most)

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """Connects and migrates. `url` is as SqlDirectoryStore.open takes it, perhaps the directory's own PostgreSQL database.
        The settings of retries are not used here. Stores of one process are opened one after the other, as Alembic keeps its
        state in globals.

        Raises ValueError for another kind of database, sqlalchemy.exc.SQLAlchemyError or OSError if it cannot be reached, and
        alembic's CommandError if a newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        engine = engine_of(url, chosen)
        try:
            await engine.migrate(partial(migrate, PRIVACY))
        except BaseException:
            await engine.close()
            raise
        return cls(engine, chosen)

    async def privacy(self, user_ids: Collection[str]) -> Mapping[str, PrivacyRow]:
        """See PrivacyStore."""
        found = {user_id: PrivacyRow(user_id) for user_id in user_ids}
        if not found:
            return found
        for row in await self._read(_FIND, {"ids": list(found)}):
            found[row.user_id] = PrivacyRow(
                row.user_id,
                Audience(row.presence),
                Audience(row.last_seen),
                row.shares_location,
                Precision(row.default_precision),
                row.version,
            )
        return found

    async def put_privacy(self, row: PrivacyRow, expected_version: int | None = None) -> int:
        """See PrivacyStore."""

        async def put(tables: Statements) -> int | None:
            version: int = await tables.scalar(_PUT, _values(row))
            return version if expected_version in (None, version - 1) else None

        version = await self._write(put)
        if version is None:
            raise Aborted("The user's privacy was changed by somebody else.")
        return version

    async def put_grant(self, grant: GrantRow, most: int) -> int | None:
        """See PrivacyStore."""

        async def put(tables: Statements) -> int | None:
            version = await _raise_version(tables, grant.owner_id)
            others = await tables.scalar(_OTHER_GRANTS, {"owner": grant.owner_id, "viewer": grant.viewer_id})
            if others >= most:
                return None
            await tables.execute(_PUT_GRANT, {**asdict(grant), "precision": int(grant.precision)})
            return version

        return await self._write(put)

    async def remove_grant(self, owner_id: str, viewer_id: str) -> int | None:
        """See PrivacyStore."""

        async def remove(tables: Statements) -> int | None:
            version = await _raise_version(tables, owner_id)
            removed = await tables.execute(_REMOVE_GRANT, {"owner": owner_id, "viewer": viewer_id})
            return version if removed.rowcount else None

        return await self._write(remove)

    async def grants_for(self, viewer_id: str, owner_ids: Collection[str]) -> Mapping[str, GrantRow]:
        """See PrivacyStore."""
        if not owner_ids:
            return {}
        place = {"viewer": viewer_id, "owners": list(owner_ids)}
        return {row.owner_id: _grant(row) for row in await self._read(_FOR_VIEWER, place)}

    async def grants_by(self, owner_id: str, after_viewer_id: str, limit: int) -> Sequence[GrantRow]:
        """See PrivacyStore."""
        if limit <= 0:
            return []
        place = {"owner": owner_id, "after": after_viewer_id, "most": limit}
        return [_grant(row) for row in await self._read(_BY_OWNER, place)]

    async def forget(self, user_id: str) -> None:
        """See PrivacyStore. Grants made to the user go in steps, each of which is whole for its owners."""

        async def forget_own(tables: Statements) -> bool:
            await _raise_version(tables, user_id)
            await tables.execute(_FORGET_GRANTS, {"user": user_id})
            await tables.execute(_FORGET_ROW, {"user": user_id})
            return True

        await self._write(forget_own)
        after = ""
        while owners := await self._grantors(user_id, after):
            await self._write(partial(_forget_grants_to, user_id, owners))
            after = owners[-1]

    async def close(self) -> None:
        """See PrivacyStore. May be called twice."""
        await self._admission.close()
        await self._engine.close()

    async def _grantors(self, viewer_id: str, after: str) -> Sequence[str]:
        place = {"viewer": viewer_id, "after": after, "most": _FORGOTTEN_AT_ONCE}
        return [row.owner_id for row in await self._read(_GRANTORS, place)]

    async def _read(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._admission.one():
            try:
                async with asyncio.timeout(self._timeout_s), self._engine.reading() as transaction:
                    return (await transaction.execute(statement, parameters)).all()
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                raise _refusal(error, "ENGINE_DOWN") from error

    async def _write(self, work: Callable[[Statements], Awaitable[T | None]]) -> T | None:
        """Runs the work as a transaction; if it comes to None, nothing was done."""
        outcome = "ENGINE_DOWN"
        with self._admission.one():
            try:
                async with asyncio.timeout(self._timeout_s), self._engine.locking() as transaction:
                    result = await work(transaction)
                    if result is not None:
                        outcome = "OUTCOME_UNKNOWN"
                        await transaction.commit()
                    return result
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                if isinstance(error, DBAPIError) and self._engine.is_lost_race(error.orig):
                    raise Aborted("Concurrent changes kept winning.") from error
                raise _refusal(error, outcome) from error


async def _raise_version(tables: Statements, owner_id: str) -> int:
    """Makes this transaction the only one that changes what the owner decided, until it ends."""
    version: int = await tables.scalar(_RAISE_VERSION, _values(PrivacyRow(owner_id)))
    return version


async def _forget_grants_to(user_id: str, owner_ids: Sequence[str], tables: Statements) -> bool:
    for owner_id in owner_ids:  # in order of id, so that no two wait for each other
        await tables.execute(_RAISE_EXISTING, {"owner": owner_id})
        await tables.execute(_REMOVE_GRANT, {"owner": owner_id, "viewer": user_id})
    return True


def _values(row: PrivacyRow) -> dict[str, object]:
    return {
        "user_id": row.user_id,
        "presence": int(row.presence),
        "last_seen": int(row.last_seen),
        "shares_location": row.shares_location,
        "default_precision": int(row.default_precision),
    }


def _grant(row: Row[*tuple[Any, ...]]) -> GrantRow:
    return GrantRow(row.owner_id, row.viewer_id, Precision(row.precision), row.expires_ms)


def _refusal(error: DBAPIError | PoolTimeoutError | OSError, outcome: str) -> HitherError:
    """What callers are told; `outcome` says what became of the call if it broke on its way."""
    if isinstance(error, PoolTimeoutError):
        return ResourceExhausted("No connection to the database came free.", retry_after_s=1.0)
    is_of_the_engine = isinstance(error, (OSError, OperationalError, InterfaceError)) or error.connection_invalidated
    if not is_of_the_engine:
        return Internal("The privacy store's database refused a statement.")
    return Unavailable("The privacy store's database is away.", reason=outcome, retry_after_s=1.0)
