"""Tests that the descriptors generate."""
