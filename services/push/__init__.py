"""Wakes up devices that are not connected."""
