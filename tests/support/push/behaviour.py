"""How a test's push server behaves towards a request, where it does not answer as the real one would."""

from dataclasses import dataclass
from enum import Enum, auto


class Way(Enum):
    """What is done about a request."""

    ANSWER = auto()
    """It is answered with a status and a reason."""
    HANG = auto()
    """It is never answered; the connection stays open."""
    RESET = auto()
    """Its stream is reset."""
    CUT = auto()
    """Its connection ends in the middle."""
    GOAWAY = auto()
    """Neither it nor what comes after it on the connection is processed: GOAWAY says so, and the connection ends once what came
    before is answered."""
    ENDLESS = auto()
    """It is answered with 400 and a body that does not end."""
    SLOW = auto()
    """It is answered as usual, later."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What is done, and its particulars."""

    way: Way
    status: int = 200
    reason: str = ""
    retry_after: str = ""
    """The header, as it is sent. Empty: none."""
    location: str = ""
    """Likewise."""
    delay_s: float = 0.0
    body: bytes | None = None
    """With ANSWER: this instead of what the server says with such a reason."""


HANG = Behaviour(Way.HANG)
RESET = Behaviour(Way.RESET)
CUT = Behaviour(Way.CUT)
GOAWAY = Behaviour(Way.GOAWAY)
ENDLESS = Behaviour(Way.ENDLESS)


def answers(
    status: int, reason: str = "", *, retry_after: str = "", location: str = "", body: bytes | None = None
) -> Behaviour:
    """Answers with this, whatever the request is."""
    return Behaviour(Way.ANSWER, status, reason, retry_after, location, body=body)


def slow(delay_s: float) -> Behaviour:
    """Answers as usual after a while."""
    return Behaviour(Way.SLOW, delay_s=delay_s)
