"""What the providers' answers have in common."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from services.ports.push_provider import Outcome, Verdict
from services.push.providers.connections import Answer, NoAnswer

WAIT_MOST_S: Final = 3600.0
"""Longer than that nobody waits, whatever a provider says."""
_REASON_MOST: Final = 100


def unanswered(error: NoAnswer) -> Verdict:
    """The verdict where no answer came."""
    return Verdict(Outcome.RETRY, error.reason)


def retry(answer: Answer, reason: str, now_ms: int) -> Verdict:
    """The verdict where the provider wants to be asked again later."""
    return Verdict(Outcome.RETRY, reason, retry_after_s=_wait_s(answer, now_ms))


def json_object(answer: Answer) -> dict[str, Any]:
    """The body's JSON object; empty if it is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def word(value: object, answer: Answer) -> str:
    """A provider's reason, if it is a word; otherwise the status. No more of an answer is ever shown: it may repeat the token."""
    if (
        isinstance(value, str)
        and 0 < len(value) <= _REASON_MOST
        and value.replace("_", "").isalnum()
        and value.isascii()
    ):
        return value
    return f"HTTP_{answer.status}"


def _wait_s(answer: Answer, now_ms: int) -> float | None:
    """Retry-After, in either of its forms."""
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said), WAIT_MOST_S)
    try:
        when = parsedate_to_datetime(said)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max((when - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds(), 0.0), WAIT_MOST_S)
