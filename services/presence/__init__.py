"""Who is there, told to their friends."""
