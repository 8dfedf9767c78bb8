"""The directory's errors: each with a reason that the contract knows."""

import pytest

from discovery.errors import HitherError
from hither.mesh.v1 import errors_pb2
from services.directory import errors

OWN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HitherError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", OWN)
def test_a_reason_is_one_of_the_contracts(kind: type[HitherError]) -> None:
    assert f"REASON_{kind.reason}" in errors_pb2.Reason.keys()  # noqa: SIM118 (an enum wrapper is no mapping)


@pytest.mark.parametrize("kind", OWN)
def test_a_reason_is_not_left_to_the_base_class(kind: type[HitherError]) -> None:
    assert "reason" in vars(kind)
