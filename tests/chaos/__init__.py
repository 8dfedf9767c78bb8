"""User stories during which processes die."""
