from dataclasses import replace

from discovery.registry.port import Instance, InstanceState, Snapshot
from discovery.view import View, next_view

ONE = Instance("hither.a.v1.AService", "one")
TWO = replace(ONE, instance_id="two")
OTHER = Instance("hither.b.v1.BService", "one")
P = 16


def test_all_partitions_are_shared_among_those_who_serve() -> None:
    service = next_view(View(), Snapshot(1, (ONE, TWO)), P).of(ONE.service)

    assert service.partitions_of("one") | service.partitions_of("two") == set(range(P))
    assert not service.partitions_of("one") & service.partitions_of("two")


def test_services_do_not_share_a_ring() -> None:
    view = next_view(View(), Snapshot(1, (ONE, TWO, OTHER)), P)

    assert view.of(OTHER.service).partitions_of("one") == set(range(P))


def test_who_drains_owns_nothing_but_is_still_known() -> None:
    draining = replace(TWO, state=InstanceState.DRAINING)

    service = next_view(View(), Snapshot(1, (ONE, draining)), P).of(ONE.service)

    assert service.partitions_of("two") == set()
    assert service.serving == (ONE,)
    assert service.instances["two"] is draining


def test_when_nobody_serves_nothing_is_owned() -> None:
    draining = replace(ONE, state=InstanceState.DRAINING)

    assert next_view(View(), Snapshot(1, (draining,)), P).of(ONE.service).owners == ()


def test_an_unknown_service_is_empty() -> None:
    assert View().of("hither.no.v1.NoService").serving == ()


def test_a_change_of_load_keeps_the_ring_and_shows_the_news() -> None:
    before = next_view(View(), Snapshot(1, (ONE, TWO)), P)
    busy = replace(ONE, load=0.9)

    after = next_view(before, Snapshot(2, (busy, TWO)), P)

    assert after.of(ONE.service).partitions_of("one") == before.of(ONE.service).partitions_of("one")
    assert busy in after.of(ONE.service).owners


def test_a_service_that_has_not_changed_is_not_computed_again() -> None:
    before = next_view(View(), Snapshot(1, (ONE,)), P)

    assert next_view(before, Snapshot(2, (ONE, OTHER)), P).of(ONE.service) is before.of(ONE.service)
