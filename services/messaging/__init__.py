"""Messages: from accepted to delivered and seen."""
