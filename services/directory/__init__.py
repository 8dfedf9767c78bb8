"""Who there is, and who knows whom."""
