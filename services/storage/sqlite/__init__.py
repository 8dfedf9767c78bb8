"""Engines on SQLite in WAL mode."""
