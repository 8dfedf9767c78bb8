"""The push store on SQL.

Whoever adds to what is counted of a user writes the user's row of settings first, and so is alone until the transaction ends. That
a token is one device's only is the database's to keep: who finds it taken meanwhile begins again, and takes it from there.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Self

from sqlalchemy import Row, bindparam, delete, func, not_, select, text

from services.ports.push_store import Platform, Preview, PushPreferences, PushSettingsRow, PushTokenRow
from services.storage.sql.calls import Calls
from services.storage.sql.directory import SqlSettings, engine_of
from services.storage.sql.engine import Engine, Statements
from services.storage.sql.migrations import PUSH, migrate
from services.storage.sql.schema import PUSH_MUTES, PUSH_SETTINGS, PUSH_TOKENS

_TOKENS = PUSH_TOKENS.c
_MUTES = PUSH_MUTES.c

# Built once: to build a statement costs more than SQLite needs to run it.
_LOCK = text("""
    INSERT INTO push_settings (user_id, preview, quiet_from_min, quiet_to_min, time_zone)
    VALUES (:user_id, :preview, :quiet_from_min, :quiet_to_min, :time_zone)
    ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id""")
_PUT_SETTINGS = text("""
    INSERT INTO push_settings (user_id, preview, quiet_from_min, quiet_to_min, time_zone)
    VALUES (:user_id, :preview, :quiet_from_min, :quiet_to_min, :time_zone)
    ON CONFLICT (user_id) DO UPDATE SET preview = excluded.preview, quiet_from_min = excluded.quiet_from_min,
        quiet_to_min = excluded.quiet_to_min, time_zone = excluded.time_zone""")
_OTHER_TOKENS = select(func.count()).where(
    _TOKENS.user_id == bindparam("user"),
    _TOKENS.device_id != bindparam("device"),
    _TOKENS.token_hash != bindparam("hash"),
)
_TAKE_TOKEN = delete(PUSH_TOKENS).where(
    _TOKENS.token_hash == bindparam("hash"),
    not_((_TOKENS.user_id == bindparam("user")) & (_TOKENS.device_id == bindparam("device"))),
)
_PUT_TOKEN = text("""
    INSERT INTO push_tokens (user_id, device_id, platform, token, token_hash, updated_ms)
    VALUES (:user_id, :device_id, :platform, :token, :token_hash, :updated_ms)
    ON CONFLICT (user_id, device_id) DO UPDATE SET platform = excluded.platform, token = excluded.token,
        token_hash = excluded.token_hash, updated_ms = excluded.updated_ms""")
_FIND_TOKENS = (
    select(PUSH_TOKENS)
    .where(_TOKENS.user_id.in_(bindparam("users", expanding=True)))
    .order_by(_TOKENS.user_id, _TOKENS.device_id)
)
_REMOVE_DEVICE = delete(PUSH_TOKENS).where(
    _TOKENS.user_id == bindparam("user"), _TOKENS.device_id == bindparam("device")
)
_REMOVE_TOKEN = _REMOVE_DEVICE.where(_TOKENS.token_hash == bindparam("hash"))
_FIND_SETTINGS = select(PUSH_SETTINGS).where(PUSH_SETTINGS.c.user_id.in_(bindparam("users", expanding=True)))
_FIND_MUTES = select(PUSH_MUTES).where(_MUTES.user_id.in_(bindparam("users", expanding=True)))
_OTHER_MUTES = select(func.count()).where(
    _MUTES.user_id == bindparam("user"), _MUTES.conversation_id != bindparam("conversation")
)
_PUT_MUTE = text("""
    INSERT INTO push_mutes (user_id, conversation_id, until_ms) VALUES (:user_id, :conversation_id, :until_ms)
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET until_ms = excluded.until_ms""")
_REMOVE_MUTE = delete(PUSH_MUTES).where(
    _MUTES.user_id == bindparam("user"), _MUTES.conversation_id == bindparam("conversation")
)


class SqlPushStore:
    """See services.ports.push_store.PushStore. Made by `open`; what calls raise besides is in services.storage.sql.calls."""

    def __init__(self, engine: Engine, settings: SqlSettings) -> None:
        self._calls = Calls(engine, settings, "push store")

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """Connects and migrates. `url` is as SqlDirectoryStore.open takes it, perhaps the directory's own PostgreSQL database.
        Stores of one process are opened one after the other, as Alembic keeps its state in globals.

        Raises ValueError for another kind of database, sqlalchemy.exc.SQLAlchemyError or OSError if it cannot be reached, and
        alembic's CommandError if a newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        return cls(await opened(url, chosen), chosen)

    async def put_token(self, row: PushTokenRow, most: int) -> bool:
        """See PushStore."""
        place = {"user": row.user_id, "device": row.device_id, "hash": _hash(row.token)}

        async def put(tables: Statements) -> bool | None:
            await tables.execute(_LOCK, _values(PushSettingsRow(row.user_id)))
            if await tables.scalar(_OTHER_TOKENS, place) >= most:
                return None
            await tables.execute(_TAKE_TOKEN, place)
            values = {
                "user_id": row.user_id,
                "device_id": row.device_id,
                "platform": int(row.platform),
                "token": row.token,
                "token_hash": place["hash"],
                "updated_ms": row.updated_ms,
            }
            await tables.execute(_PUT_TOKEN, values)
            return True

        return bool(await self._calls.write(put))

    async def tokens(self, user_ids: Collection[str]) -> Mapping[str, Sequence[PushTokenRow]]:
        """See PushStore."""
        if not user_ids:
            return {}
        found: defaultdict[str, list[PushTokenRow]] = defaultdict(list)
        [rows] = await self._calls.read((_FIND_TOKENS, {"users": list(user_ids)}))
        for row in rows:
            platform = Platform(row.platform)
            found[row.user_id].append(PushTokenRow(row.user_id, row.device_id, platform, row.token, row.updated_ms))
        return dict(found)

    async def remove_token(self, user_id: str, device_id: str, token: str | None = None) -> bool:
        """See PushStore."""
        place: dict[str, object] = {"user": user_id, "device": device_id}
        statement = _REMOVE_DEVICE
        if token is not None:
            statement, place["hash"] = _REMOVE_TOKEN, _hash(token)

        async def remove(tables: Statements) -> bool | None:
            return (await tables.execute(statement, place)).rowcount > 0 or None

        return bool(await self._calls.write(remove))

    async def preferences(self, user_ids: Collection[str]) -> Mapping[str, PushPreferences]:
        """See PushStore."""
        if not user_ids:
            return {}
        users = {"users": list(user_ids)}
        settings, mutes = await self._calls.read((_FIND_SETTINGS, users), (_FIND_MUTES, users))
        chosen = {row.user_id: _settings(row) for row in settings}
        muted: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for row in mutes:
            muted[row.user_id][row.conversation_id] = row.until_ms
        return {
            user_id: PushPreferences(chosen.get(user_id) or PushSettingsRow(user_id), muted.get(user_id, {}))
            for user_id in user_ids
        }

    async def put_settings(self, row: PushSettingsRow) -> None:
        """See PushStore."""

        async def put(tables: Statements) -> bool:
            await tables.execute(_PUT_SETTINGS, _values(row))
            return True

        await self._calls.write(put)

    async def put_mute(self, user_id: str, conversation_id: str, until_ms: int, most: int) -> bool:
        """See PushStore."""

        async def put(tables: Statements) -> bool | None:
            await tables.execute(_LOCK, _values(PushSettingsRow(user_id)))
            place = {"user": user_id, "conversation": conversation_id}
            if await tables.scalar(_OTHER_MUTES, place) >= most:
                return None
            values = {"user_id": user_id, "conversation_id": conversation_id, "until_ms": until_ms}
            await tables.execute(_PUT_MUTE, values)
            return True

        return bool(await self._calls.write(put))

    async def remove_mute(self, user_id: str, conversation_id: str) -> bool:
        """See PushStore."""

        async def remove(tables: Statements) -> bool | None:
            place = {"user": user_id, "conversation": conversation_id}
            return (await tables.execute(_REMOVE_MUTE, place)).rowcount > 0 or None

        return bool(await self._calls.write(remove))

    async def close(self) -> None:
        """See PushStore. May be called twice."""
        await self._calls.close()


async def opened(url: str, settings: SqlSettings) -> Engine:
    """The engine of the push store's database, with the tables of the newest version. Raises as SqlPushStore.open."""
    engine = engine_of(url, settings)
    try:
        await engine.migrate(partial(migrate, PUSH))
    except BaseException:  # also when it is cancelled: nobody else would close it
        await engine.close()
        raise
    return engine


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _values(row: PushSettingsRow) -> dict[str, object]:
    return {
        "user_id": row.user_id,
        "preview": int(row.preview),
        "quiet_from_min": row.quiet_from_min,
        "quiet_to_min": row.quiet_to_min,
        "time_zone": row.time_zone,
    }


def _settings(row: Row[*tuple[Any, ...]]) -> PushSettingsRow:
    return PushSettingsRow(row.user_id, Preview(row.preview), row.quiet_from_min, row.quiet_to_min, row.time_zone)
