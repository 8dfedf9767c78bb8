"""What every test may ask for."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def require() -> Callable[[bool, str], None]:
    """Skips the test where something outside Python cannot be had; in CI (HITHER_REQUIRE_SERVERS=1) fails it instead."""

    def check(present: bool, otherwise: str) -> None:
        if present:
            return
        if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
            pytest.fail(otherwise)
        pytest.skip(otherwise)

    return check
