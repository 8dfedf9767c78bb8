"""Engines in the memory of the process."""
