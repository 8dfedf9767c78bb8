"""How a process and the server of an engine know each other: whose certificates it believes, and who it says that it is.

Certificates are checked always, with the name or address that was dialled. Secrets are shown nowhere. Knows no driver.
"""

import ssl
from dataclasses import dataclass, field


class AccessRefused(Exception):
    """One of the two does not believe the other: the configuration is wrong. The message says what, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a connection begins with."""

    tls: ssl.SSLContext | None = None
    """None: the connection is in the clear."""
    user: str = ""
    """Empty: the server is not told who this is."""
    password: str = field(default="", repr=False)


OPEN = Access()
"""In the clear, and nobody asks."""


def believing(ca: str) -> ssl.SSLContext:
    """TLS with servers that have a certificate of one of the authorities in this file (PEM). Raises OSError if it holds none."""
    context = ssl.create_default_context(cafile=ca)
    # A connection that reads and writes without blocking could not wait for the one in order to do the other.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context
