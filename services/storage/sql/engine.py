"""What the directory's tables and transactions need of a database; each database has a module that satisfies it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from sqlalchemy import Connection, CursorResult, Executable, ScalarResult

Parameters = Mapping[str, object] | Sequence[Mapping[str, object]]


class Statements(Protocol):
    """Runs statements in one transaction, for one task at a time. sqlalchemy.ext.asyncio.AsyncConnection is one.

    The results are to be read before the next statement. Raises sqlalchemy.exc.DBAPIError.
    """

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Runs the statement with these parameters (see Parameters): its rows, or how many it changed."""

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """The first column of the first row; None if there is no row."""

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """The first column of each row."""


class Transaction(Statements, Protocol):
    """A transaction that was begun. It is rolled back if it ends without a commit."""

    async def commit(self) -> None:
        """Ends it; what it wrote is durable when this returns. A commit that was begun goes on if its caller is cancelled."""


class Engine(Protocol):
    """A database. Waits as long as it must: the caller bounds the time of a transaction, by cancelling it."""

    def reading(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction on one consistent snapshot."""

    def writing(self) -> AbstractAsyncContextManager[Transaction]:
        """A serializable transaction."""

    def locking(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction whose every statement sees what others committed before it began, so that it may wait for locks
        instead of losing races.
        """

    def is_lost_race(self, error: BaseException | None) -> bool:
        """Whether the driver's error says that a concurrent transaction won, other than by a broken constraint."""

    async def migrate(self, steps: Callable[[Connection], None]) -> None:
        """Runs `steps` as one transaction, while no other process can do the same. Called once, first."""

    async def close(self) -> None:
        """Lets the connections go, after the commits that are under way. May be called twice."""
