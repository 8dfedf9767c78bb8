"""Who may send now: a token bucket for each sender. Pure: time is given."""

from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Admission:
    """Lets each sender send `burst` messages at once and `rate_per_s` in the long run.

    Remembers at most `most_senders` of them; the one who has been quiet for longest is forgotten first.
    """

    def __init__(self, rate_per_s: float, burst: int, most_senders: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._most_senders = most_senders
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, sender_id: str, now_s: float) -> float:
        """Takes one message if it may be sent: answers 0. Else takes nothing, and answers in how many seconds it may."""
        bucket = self._buckets.pop(sender_id, None) or _Bucket(self._burst, now_s)
        self._buckets[sender_id] = bucket  # the dict's order is the order of last use
        if len(self._buckets) > self._most_senders:
            del self._buckets[next(iter(self._buckets))]
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now_s - bucket.at_s) * self._rate_per_s)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._rate_per_s
        bucket.tokens -= 1
        return 0.0
