"""How a transaction over several shards ends: two-phase commit, whose decision is a row on the first of the shards that it
changed. That shard is the last to be asked: its part is not prepared but committed, with the row, and that is the decision.

Who finds a prepared part later (see recovery) asks the first shard. It reads the row, or leaves one that says "rolled back",
which the decision would break on.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from uuid import uuid4

import structlog

from services.storage.sql.failures import FAILURES
from services.storage.sql.sharded.branch import Branch
from services.storage.sql.sharded.failures import is_broken

GATE = "directory_shard"
"""The table that is locked in ROW EXCLUSIVE mode while a part is prepared, until it is ended. Nothing else locks it."""
_GID = re.compile("hither directory ([0-9]{1,5}) ([0-9a-f]{32}) [0-9]{1,5}")

log = structlog.get_logger(__name__)


class OutcomeUnknown(Exception):
    """The connection broke while the decision was under way."""


@dataclass(frozen=True, slots=True)
class TransactionName:
    """Names a transaction over several shards, with the number of the one that has the decision."""

    transaction_id: str
    first: int

    def gid(self, shard: int) -> str:
        """What its prepared part on that shard is called: a server that has several shards has one set of names."""
        return f"hither directory {self.first} {self.transaction_id} {shard}"

    @classmethod
    def parse(cls, gid: str) -> "TransactionName | None":
        """None if the gid is somebody else's."""
        matched = _GID.fullmatch(gid)
        return None if matched is None else cls(matched[2], int(matched[1]))


async def commit(branches: Sequence[Branch]) -> None:
    """Commits all parts or none. Returns when the transaction is decided and every later read waits for it or sees it.

    Raises OutcomeUnknown, or one of FAILURES or LostRace when nothing was done.
    """
    changed = [branch for branch in branches if branch.is_changed]
    # All locks are taken by now. That these are still held, nobody knows before the server says so.
    await _all(branch.end("COMMIT", "COMMIT") for branch in branches if not branch.is_changed)
    if not changed:
        return
    first, *others = changed
    if not others:
        await decide(first, "COMMIT")
        return
    name = TransactionName(uuid4().hex, first.number)
    await prepare(others, name)
    try:
        await decide(first, f"{_insert(name.transaction_id)}; COMMIT")
    except OutcomeUnknown:
        raise
    except BaseException:
        await _undo(others, name)
        raise
    if await complete(others, name):
        await _forget(first, name)


async def prepare(branches: Sequence[Branch], name: TransactionName) -> None:
    """The first phase: from now on the parts can be committed whatever happens, and keep their locks until they are ended."""
    lock, tag = f"LOCK TABLE {GATE} IN ROW EXCLUSIVE MODE", "PREPARE TRANSACTION"
    try:
        await _all(branch.end(f"{lock}; {tag} '{name.gid(branch.number)}'", tag) for branch in branches)
    except BaseException:
        await _undo(branches, name)
        raise


async def decide(first: Branch, commands: str) -> None:
    """The commit point."""
    try:
        await first.end(commands, "COMMIT")
    except FAILURES as error:
        if is_broken(error):
            raise OutcomeUnknown from error
        raise


async def complete(branches: Sequence[Branch], name: TransactionName) -> bool:
    """The second phase; whether all of it was done. What is left is done by a recovery, and is locked until then."""
    try:
        await _all(branch.command(f"COMMIT PREPARED '{name.gid(branch.number)}'") for branch in branches)
    except FAILURES as error:
        log.warning(
            "a part of a transaction will be committed by a recovery",
            transaction_id=name.transaction_id,
            error=str(error),
        )
        return False
    return True


async def _undo(branches: Sequence[Branch], name: TransactionName) -> None:
    for branch in branches:
        if branch.is_ended:
            try:
                await branch.command(f"ROLLBACK PREPARED '{name.gid(branch.number)}'")
            except FAILURES as error:
                log.warning(
                    "a part of a transaction will be undone by a recovery",
                    gid=name.gid(branch.number),
                    error=str(error),
                )


async def _forget(first: Branch, name: TransactionName) -> None:
    """Nobody will ask for the decision any more. If this is lost, a recovery forgets it."""
    forget = f"DELETE FROM decisions WHERE transaction_id = '{name.transaction_id}'"  # noqa: S608  (hexadecimal digits)
    try:
        await first.command(f"BEGIN; SET LOCAL synchronous_commit TO off; {forget}; COMMIT")
    except FAILURES as error:
        log.debug("a decision will be forgotten by a recovery", transaction_id=name.transaction_id, error=str(error))


def _insert(transaction_id: str) -> str:
    values = f"'{transaction_id}', true, (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    return f"INSERT INTO decisions (transaction_id, is_committed, time_ms) VALUES ({values})"  # noqa: S608  (as above)


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """All of them at once; the first error after the last has ended."""
    for error in await asyncio.gather(*steps, return_exceptions=True):
        if error is not None:
            raise error
