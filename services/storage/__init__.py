"""Engines. The only rooms that import a driver; they decide nothing."""
