from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from discovery.choosing import Chooser
from discovery.registry.port import Instance
from discovery.rpc.outlier import Outliers


def instance(name: str, zone: str, region: str = "eu") -> Instance:
    return Instance("hither.a.v1.AService", name, address=name, region=region, zone=zone)


NEAR = tuple(instance(f"near-{number}", "a") for number in range(3))
FAR = tuple(instance(f"far-{number}", "b") for number in range(3))
ABROAD = instance("abroad", "a", region="us")


def chosen(chooser: Chooser, serving: Sequence[Instance], times: int = 200) -> Counter[str]:
    return Counter(chooser.choose(serving).instance_id for _ in range(times))


def test_instances_of_the_own_zone_are_asked_first() -> None:
    chooser = Chooser("a", "eu", Outliers(), lambda _: 0)

    assert set(chosen(chooser, [*NEAR, *FAR, ABROAD])) == {one.instance_id for one in NEAR}


def test_then_those_of_the_own_region_then_any() -> None:
    chooser = Chooser("a", "eu", Outliers(), lambda _: 0)

    assert set(chosen(chooser, [*FAR, ABROAD])) == {one.instance_id for one in FAR}
    assert set(chosen(chooser, [ABROAD])) == {"abroad"}


def test_an_ejected_zone_sends_its_calls_to_the_others() -> None:
    outliers = Outliers()
    for one in NEAR:
        outliers.failed(one.instance_id)
    chooser = Chooser("a", "eu", outliers, lambda _: 0)

    assert set(chosen(chooser, [*NEAR, *FAR])) == {one.instance_id for one in FAR}


def test_without_a_zone_all_are_alike() -> None:
    chooser = Chooser("", "", Outliers(), lambda _: 0)

    assert len(chosen(chooser, [*NEAR, *FAR], 500)) == 6


def test_of_two_the_less_busy_is_asked_so_the_busiest_never() -> None:
    busy = {"near-0": 5, "near-1": 1, "near-2": 1}
    chooser = Chooser("a", "eu", Outliers(), busy.__getitem__)

    assert set(chosen(chooser, NEAR)) == {"near-1", "near-2"}


def test_who_stops_serving_is_asked_no_more() -> None:
    chooser = Chooser("a", "eu", Outliers(), lambda _: 0)
    chooser.choose(NEAR)

    assert set(chosen(chooser, tuple(replace(one) for one in NEAR[:1]))) == {"near-0"}
