"""A store's calls of its database: so many at a time, each within its time, and told in our own words when they fail."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from discovery.errors import Aborted, HitherError, Internal, ResourceExhausted, Unavailable
from services.storage.sql.admission import Admission
from services.storage.sql.directory import SqlSettings
from services.storage.sql.engine import Engine, Statements

T = TypeVar("T")


class Calls:
    """Belongs to the store that `name` names in errors, and owns the engine.

    A write whose commit broke or took too long raises Unavailable (OUTCOME_UNKNOWN); one that lost races again and again
    Aborted; more calls than may wait, or a pool that stays empty, ResourceExhausted.
    """

    def __init__(self, engine: Engine, settings: SqlSettings, name: str) -> None:
        self._engine = engine
        self._settings = settings
        self._name = name
        self._admission = Admission(settings.waiting_most)

    async def read(self, *asked: tuple[Executable, Mapping[str, object]]) -> list[Sequence[Row[*tuple[Any, ...]]]]:
        """The rows of each statement, all on one snapshot."""
        with self._admission.one():
            try:
                async with asyncio.timeout(self._settings.transaction_timeout_s), self._engine.reading() as transaction:
                    return [(await transaction.execute(statement, parameters)).all() for statement, parameters in asked]
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                raise self._refusal(error, "ENGINE_DOWN") from error

    async def write(self, work: Callable[[Statements], Awaitable[T | None]]) -> T | None:
        """Runs the work as a transaction that waits for locks, perhaps several times; if it comes to None, nothing was done."""
        with self._admission.one():
            for attempt in range(self._settings.attempts):
                try:
                    return await self._write_once(work)
                except DBAPIError as error:  # somebody else's transaction won
                    if not self._is_lost_race(error):
                        raise
                # Full jitter: who lost to each other must not meet again.
                longest_s = min(self._settings.retry_base_s * 2**attempt, self._settings.retry_most_s)
                await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - spreads load, guards nothing
        raise Aborted("Concurrent changes kept winning.")

    async def close(self) -> None:
        """Finishes the calls that were begun, then lets the engine go. May be called twice."""
        await self._admission.close()
        await self._engine.close()

    async def _write_once(self, work: Callable[[Statements], Awaitable[T | None]]) -> T | None:
        outcome = "ENGINE_DOWN"
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_s), self._engine.locking() as transaction:
                result = await work(transaction)
                if result is not None:
                    outcome = "OUTCOME_UNKNOWN"
                    await transaction.commit()
                return result
        except DBAPIError as error:
            if self._is_lost_race(error):
                raise
            raise self._refusal(error, outcome) from error
        except (PoolTimeoutError, OSError) as error:
            raise self._refusal(error, outcome) from error

    def _is_lost_race(self, error: DBAPIError) -> bool:
        return isinstance(error, IntegrityError) or self._engine.is_lost_race(error.orig)

    def _refusal(self, error: DBAPIError | PoolTimeoutError | OSError, outcome: str) -> HitherError:
        """What callers are told; `outcome` says what became of the call if it broke on its way."""
        if isinstance(error, PoolTimeoutError):
            return ResourceExhausted("No connection to the database came free.", retry_after_s=1.0)
        is_of_the_engine = (
            isinstance(error, (OSError, OperationalError, InterfaceError)) or error.connection_invalidated
        )
        if not is_of_the_engine:
            return Internal(f"The {self._name}'s database refused a statement.")
        return Unavailable(f"The {self._name}'s database is away.", reason=outcome, retry_after_s=1.0)
