"""The directory store on SQL: SQLite (one process) or PostgreSQL, by the same code."""
