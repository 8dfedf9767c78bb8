"""Both ends of a call: server lifecycle, deadlines, identity, validation, errors, telemetry."""
