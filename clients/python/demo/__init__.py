"""A story that real clients play against a real server: `make demo`."""
