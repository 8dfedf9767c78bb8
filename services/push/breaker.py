"""How a provider fares: how many attempts it may be asked at once, and from when on. Pure: times are given.

A provider that fails again and again is tried with one push at a time, after ever longer pauses, until one is answered. What
it says about when to come back holds for everything that it is to be sent.
"""

import random

from services.push.pipeline_settings import PushPipelineSettings


class Breaker:
    """Of one provider. Times are seconds of a clock that never goes back."""

    def __init__(self, settings: PushPipelineSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._failures = 0
        self._probes = 0
        self.not_before_s = 0.0
        """Nothing may be tried before."""

    @property
    def away(self) -> bool:
        """Whether it has failed so often that it is only probed."""
        return self._failures >= self._settings.failures_to_probe

    def may_try(self, now_s: float, in_flight: int) -> bool:
        """Whether one more attempt may begin beside those that are under way."""
        return now_s >= self.not_before_s and in_flight < (1 if self.away else self._settings.most_in_flight)

    def answered(self) -> None:
        """It took a push, or refused that one push."""
        self._failures = self._probes = 0
        self.not_before_s = 0.0

    def failed(self, now_s: float, retry_after_s: float | None) -> None:
        """It could not take a push now."""
        self._failures += 1
        if self.away and now_s >= self.not_before_s:
            self._probes += 1
            self.not_before_s = now_s + pause_s(self._probes, self._settings, self._rng)
        if retry_after_s is not None:
            self.not_before_s = max(self.not_before_s, now_s + retry_after_s)


def pause_s(failures: int, settings: PushPipelineSettings, rng: random.Random) -> float:
    """How long to wait after the n-th failure in a row (from 1): doubling, with the upper half left to chance."""
    longest_s = min(settings.retry_max_s, settings.retry_min_s * 2.0 ** min(failures - 1, 30))
    return longest_s * rng.uniform(0.5, 1.0)
