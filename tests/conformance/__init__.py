"""One suite for each port, over every adapter."""
