"""Real servers on loopback, free ports and temporary folders, for tests and development; stopped by whoever started them."""
