"""User stories over real sockets."""
