"""Clock, factories and runners for tests."""
