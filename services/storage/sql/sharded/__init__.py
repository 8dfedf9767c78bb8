"""The directory on several PostgreSQL databases."""
