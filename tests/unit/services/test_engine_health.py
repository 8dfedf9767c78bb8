"""What the calls of an engine say about it."""

import pytest
from prometheus_client import REGISTRY

from discovery.errors import HitherError, NotFound, Unavailable
from services.engine_health import EngineHealth
from tests.support.clock import ManualClock


class Engine:
    """Answers, or fails as told."""

    name = "an engine"

    def __init__(self) -> None:
        self.error: HitherError | None = None

    async def add(self, one: int, *, other: int) -> int:
        if self.error is not None:
            raise self.error
        return one + other


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def health(clock: ManualClock) -> EngineHealth:
    return EngineHealth(clock)


async def test_a_watched_engine_answers_as_it_does_by_itself(health: EngineHealth) -> None:
    watched = health.watch("sum", Engine())

    assert await watched.add(1, other=2) == 3
    assert watched.name == "an engine"
    assert health.problems() == {}


@pytest.mark.parametrize("reason", ["ENGINE_DOWN", "OUTCOME_UNKNOWN"])
async def test_an_engine_is_away_from_a_failure_to_the_next_answer(health: EngineHealth, reason: str) -> None:
    engine = Engine()
    watched = health.watch("sum", engine)
    engine.error = Unavailable("gone", reason=reason)

    with pytest.raises(Unavailable):
        await watched.add(1, other=2)
    while_away = health.problems()
    metric_while_away = REGISTRY.get_sample_value("hither_engine_up", {"engine": "sum"})
    engine.error = None
    await watched.add(1, other=2)

    assert list(while_away) == ["sum"]
    assert metric_while_away == 0
    assert health.problems() == {}
    assert REGISTRY.get_sample_value("hither_engine_up", {"engine": "sum"}) == 1


async def test_an_old_failure_says_nothing_any_more(health: EngineHealth, clock: ManualClock) -> None:
    engine = Engine()
    watched = health.watch("sum", engine)
    engine.error = Unavailable("gone")
    with pytest.raises(Unavailable):
        await watched.add(1, other=2)

    clock.advance(31)

    assert health.problems() == {}


async def test_an_answer_that_refuses_is_an_answer(health: EngineHealth) -> None:
    engine = Engine()
    watched = health.watch("sum", engine)
    engine.error = NotFound("nothing to add")

    with pytest.raises(NotFound):
        await watched.add(1, other=2)

    assert health.problems() == {}
