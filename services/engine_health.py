"""How the engines of a process fare, as its calls of them show: for operators, in health and metrics.

An engine that is away degrades the services that need it, and ends none: a process is ready all the same.
"""

from collections.abc import Awaitable, Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

import structlog
from prometheus_client import Counter, Gauge

from discovery.clock import Clock
from discovery.errors import Unavailable

_RECENT_S = 30.0
"""A failure that is older says nothing any more, where nothing was asked of the engine since."""
_OF_THE_ENGINE = frozenset({"ENGINE_DOWN", "OUTCOME_UNKNOWN"})

_up = Gauge("hither_engine_up", "1 unless the engine's last call failed, less than 30 s ago.", ["engine"])
_failures = Counter("hither_engine_failures", "Calls that an engine did not answer, or not for sure.", ["engine"])
_log = structlog.get_logger("hither.engines")

T = TypeVar("T")


class EngineHealth:
    """Of the engines that were `watch`ed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed_s: dict[str, float] = {}
        """When the last call of an engine failed, if it did."""

    def watch(self, name: str, engine: T) -> T:
        """The engine, with an eye on the outcome of each of its calls."""
        _up.labels(name).set_function(lambda: float(name not in self.problems()))
        return cast(T, _Watched(engine, lambda error: self._note(name, error)))

    def problems(self) -> Mapping[str, str]:
        """The engines that are away now, each with a word on it that is safe to show."""
        now_s = self._clock.monotonic_s()
        return {
            name: f"away: the last call failed {now_s - failed_s:.1f} s ago"
            for name, failed_s in self._failed_s.items()
            if now_s - failed_s < _RECENT_S
        }

    def _note(self, name: str, error: Unavailable | None) -> None:
        if error is None:
            if self._failed_s.pop(name, None) is not None:
                _log.info("engine.recovered", engine=name)
            return
        if name not in self._failed_s:
            _log.warning("engine.away", engine=name, reason=error.reason, error=error.message)
        self._failed_s[name] = self._clock.monotonic_s()
        _failures.labels(name).inc()


class _Watched:
    """Stands in for an engine: `note` is given None after each call that it answered, else the error."""

    def __init__(self, engine: object, note: Callable[[Unavailable | None], None]) -> None:
        self._engine = engine
        self._note = note

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if not iscoroutinefunction(attribute):
            return attribute
        watched = self._watch(attribute)
        setattr(self, name, watched)  # the next look-up finds it
        return watched

    def _watch(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        note = self._note

        async def watched(*arguments: Any, **named: Any) -> Any:
            try:
                answer = await call(*arguments, **named)
            except Unavailable as error:
                if error.reason in _OF_THE_ENGINE:
                    note(error)
                raise
            note(None)
            return answer

        return watched
