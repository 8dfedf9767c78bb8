"""Answers to mutations on SQL: see services.directory.ports for what each method promises."""

from sqlalchemy import ColumnElement, and_, delete, insert, select, tuple_

from services.directory.model import Answer, AnswerKey
from services.storage.sql.engine import Statements
from services.storage.sql.schema import ANSWERS


class SqlAnswers:
    """See services.directory.ports.Answers."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def find(self, key: AnswerKey) -> Answer | None:
        """See Answers."""
        rows = await self._statements.execute(select(ANSWERS).where(_is(key)))
        row = rows.first()
        return None if row is None else Answer(row.request_digest, row.response, row.create_time_ms)

    async def add(self, key: AnswerKey, answer: Answer) -> None:
        """See Answers."""
        await self._statements.execute(
            insert(ANSWERS).values(
                caller_id=key.caller_id,
                method=key.method,
                request_id=key.request_id,
                request_digest=answer.request_digest,
                response=answer.response,
                create_time_ms=answer.create_time_ms,
            )
        )

    async def prune(self, before_ms: int, limit: int) -> int:
        """See Answers."""
        place = (ANSWERS.c.caller_id, ANSWERS.c.method, ANSWERS.c.request_id)
        oldest = (
            select(*place)
            .where(ANSWERS.c.create_time_ms < before_ms)
            .order_by(ANSWERS.c.create_time_ms, *place)
            .limit(limit)
        )
        gone = await self._statements.execute(delete(ANSWERS).where(tuple_(*place).in_(oldest)))
        return gone.rowcount


def _is(key: AnswerKey) -> ColumnElement[bool]:
    return and_(
        ANSWERS.c.caller_id == key.caller_id,
        ANSWERS.c.method == key.method,
        ANSWERS.c.request_id == key.request_id,
    )
