"""What PostgreSQL's driver raises, raw or as SQLAlchemy wraps it."""

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

DRIVER_FAILURES = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Of the driver's own side. The second is for a connection on which the server has just said farewell, and that is not closed yet."""
FAILURES = (SQLAlchemyError, asyncpg.PostgresError, *DRIVER_FAILURES, OSError)
"""All that a statement, or the way to a connection, may raise. TimeoutError is an OSError."""
