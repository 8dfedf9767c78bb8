"""Engines on Redis: the only room that imports its driver."""
