"""What lives on a lease: the connection of a device; and its cursor."""
