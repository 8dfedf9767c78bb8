"""Where people are who want their friends to know."""
