"""Who owns what, and how to call them. Imports the generated contracts only."""
