"""What is stored by number is told by number."""

from enum import IntEnum

import pytest

from hither.push.v1.push_pb2 import PushFate, PushPlatform, PushPreview
from services.ports.push_store import Fate, Platform, Preview


@pytest.mark.parametrize(
    ("kept", "told"),
    [(Platform, PushPlatform), (Preview, PushPreview), (Fate, PushFate)],
    ids=["platform", "preview", "fate"],
)
def test_the_numbers_of_the_stores_are_those_of_the_contract(
    kept: type[IntEnum], told: type[PushFate] | type[PushPlatform] | type[PushPreview]
) -> None:
    prefix = {Platform: "PUSH_PLATFORM_", Preview: "PUSH_PREVIEW_", Fate: "PUSH_FATE_"}[kept]

    assert {f"{prefix}{one.name}": one.value for one in kept} | {f"{prefix}UNSPECIFIED": 0} == dict(told.items())
