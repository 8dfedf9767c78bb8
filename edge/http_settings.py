"""Settings of the HTTP side of the edge."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of REST requests."""

    body_bytes: int = 1_048_576
    """The largest body that is read, in bytes."""
    request_timeout_s: float = 10.0
    """How long a request may take from its first header to its answer, in seconds, its body's way included."""
    allowed_origins: str = ""
    """Origins whose pages may call from a browser, separated by spaces; "*" for all. Empty: none but our own."""
    public_rate_per_s: float = 10.0
    """Changes that one address may ask for without a token, such as sign-ups, a second."""
    public_burst: int = 200
    """How many of them it may ask for at once."""
    public_addresses: int = 10_000
    """Addresses that are remembered at most; the one that has been quiet the longest is forgotten first."""
