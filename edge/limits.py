"""How much one connection may ask for. Pure: fed with the time, decides only."""

from enum import Enum, auto

from edge.settings import EdgeSettings


class TokenBucket:
    """Lets `burst` through at once and `per_s` steadily. Times are monotonic seconds that never go back."""

    __slots__ = ("_burst", "_per_s", "_tokens", "_updated_s")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._updated_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether one more may pass now; if so, it has."""
        tokens = min(self._burst, self._tokens + (now_s - self._updated_s) * self._per_s)
        self._updated_s = now_s
        passes = tokens >= 1.0
        self._tokens = tokens - 1.0 if passes else tokens
        return passes

    def wait_s(self) -> float:
        """How long after the last `take` the next one passes, in seconds."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)


class Admission(Enum):
    """What a frame meets."""

    PASS = auto()
    REFUSE = auto()
    """Refused, and the client is told."""
    IGNORE = auto()
    """Refused and counted only: the client has been told often enough."""
    CUT_OFF = auto()
    """Refused like so many before it that the connection ends."""


class FrameLimit:
    """The frames of one connection: a steady rate with bursts, a bounded rate of refusals, and an end to patience."""

    __slots__ = ("_frames", "_most_refused", "_refusals", "_refused", "_window_end_s", "_window_s")

    def __init__(self, settings: EdgeSettings, now_s: float) -> None:
        self._frames = TokenBucket(settings.frames_per_s, settings.frames_burst, now_s)
        self._refusals = TokenBucket(settings.refusals_per_s, max(1.0, settings.refusals_per_s), now_s)
        self._most_refused = settings.refused_frames
        self._window_s = settings.refused_window_s
        self._window_end_s = now_s
        self._refused = 0

    def admit(self, now_s: float) -> Admission:
        """What the frame that has just come meets."""
        if self._frames.take(now_s):
            return Admission.PASS
        if now_s >= self._window_end_s:
            self._window_end_s = now_s + self._window_s
            self._refused = 0
        self._refused += 1
        if self._refused > self._most_refused:
            return Admission.CUT_OFF
        return Admission.REFUSE if self._refusals.take(now_s) else Admission.IGNORE

    def retry_after_s(self) -> float:
        """When the next frame passes, in seconds from the last one."""
        return self._frames.wait_s()
