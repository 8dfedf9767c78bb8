import pytest

from tests.unit.location.live_desk import Desk, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)
