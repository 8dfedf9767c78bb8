"""Which instances there are: the Registry port and its adapters."""
