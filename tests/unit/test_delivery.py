"""Telling connected users something."""

import pytest
from opentelemetry.trace import StatusCode

from discovery.rpc.tracing import traceparent
from hither.sessions.v1.sessions_pb2 import Connection
from services.delivery import Delivery, UserEvent
from tests.support.lone_mesh import LoneMesh
from tests.support.tracing import parent_of, place_of, recording

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def mesh() -> LoneMesh:
    return LoneMesh()


@pytest.fixture
def delivery(mesh: LoneMesh) -> Delivery:
    return Delivery(mesh.as_mesh())


def message(user_id: str, payload: bytes, pos: int) -> UserEvent:
    return UserEvent(user_id, "message", payload, pos)


async def test_an_edge_gets_one_batch_and_one_delivery_for_all_targets_of_an_event(
    mesh: LoneMesh, delivery: Delivery
) -> None:
    for number, user_id in enumerate(["ann", "ben", "cat"], start=1):
        mesh.connect(user_id, number)

    missed = await delivery.to_users([message(user_id, b"hi", 7) for user_id in ("ann", "ben", "cat")])

    [(edge_id, batch)] = mesh.delivered
    [sent] = batch.deliveries
    assert edge_id == "edge"
    assert {(target.connection_id, target.pos) for target in sent.targets} == {(1, 7), (2, 7), (3, 7)}
    assert missed == frozenset()


async def test_every_device_of_a_user_gets_the_event_on_its_own_edge(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1, "edge-a", "phone")
    mesh.connect("ann", 1, "edge-b", "laptop")

    await delivery.to_users([message("ann", b"hi", 1)])

    assert sorted(edge_id for edge_id, _ in mesh.delivered) == ["edge-a", "edge-b"]


async def test_an_event_for_some_devices_reaches_only_those(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1, "edge", "phone")
    mesh.connect("ann", 2, "edge", "laptop")

    await delivery.to_users([UserEvent("ann", "presence", b"away", device_ids=frozenset({"laptop", "gone"}))])

    assert (mesh.received(1), len(mesh.received(2))) == ([], 1)


async def test_events_reach_a_connection_in_their_order_also_where_they_share_a_delivery(
    mesh: LoneMesh, delivery: Delivery
) -> None:
    mesh.connect("ann", 1)
    mesh.connect("ben", 2)

    await delivery.to_users(
        [message("ann", b"one", 1), message("ben", b"two", 1), message("ben", b"one", 2), message("ann", b"two", 2)]
    )

    assert mesh.received(1) == [("message", 1), ("message", 2)]
    assert mesh.received(2) == [("message", 1), ("message", 2)]


async def test_connections_that_are_known_are_told_without_asking_for_them(mesh: LoneMesh, delivery: Delivery) -> None:
    connections = {
        "ann": [Connection(user_id="ann", edge_id="edge", connection_id=number) for number in (1, 2)],
        "ben": [Connection(user_id="ben", edge_id="dead", connection_id=3)],
    }
    mesh.dead_edges.add("dead")
    mesh.gone.add(2)

    missed = await delivery.to_connections([message(one, b"hi", 1) for one in ("ann", "ben", "cat")], connections)

    assert (len(mesh.received(1)), len(mesh.received(2))) == (1, 1)
    assert missed == {"ben", "cat"}
    assert (mesh.calls, mesh.removed) == ([], [])


async def test_who_has_no_connection_is_missed(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1)

    assert await delivery.to_users([message("ann", b"hi", 1), message("ben", b"hi", 1)]) == {"ben"}


async def test_a_connection_that_is_gone_is_forgotten_and_its_user_missed(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1)
    mesh.connect("ben", 2)
    mesh.gone = {2}

    assert await delivery.to_users([message("ann", b"hi", 1), message("ben", b"hi", 1)]) == {"ben"}
    assert [connection.connection_id for connection in mesh.removed] == [2]


async def test_a_user_with_one_device_gone_and_one_live_is_reached(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1, device_id="phone")
    mesh.connect("ann", 2, device_id="laptop")
    mesh.gone = {2}

    assert await delivery.to_users([message("ann", b"hi", 1)]) == frozenset()


async def test_an_edge_that_is_away_costs_only_its_own_users(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1, "edge-a")
    mesh.connect("ben", 1, "edge-b")
    mesh.dead_edges = {"edge-a"}

    assert await delivery.to_users([message("ann", b"hi", 1), message("ben", b"hi", 1)]) == {"ann"}


async def test_a_registry_that_is_away_means_that_nobody_was_reached(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1)
    mesh.failing = {"LookupConnections"}

    assert await delivery.to_users([message("ann", b"hi", 1)]) == {"ann"}


async def test_a_batch_holds_at_most_what_the_contract_allows(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1)

    await delivery.to_users([message("ann", b"%d" % pos, pos) for pos in range(1, 1500)])

    assert [len(batch.deliveries) for _, batch in mesh.delivered] == [1024, 475]
    assert mesh.received(1) == [("message", pos) for pos in range(1, 1500)]


async def test_evicting_closes_the_connection_at_its_edge(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 9)

    await delivery.evict(mesh.connections[0], 4101, "replaced")

    [(_, batch)] = mesh.delivered
    assert [(item.connection_id, item.close_code, item.reason) for item in batch.evictions] == [(9, 4101, "replaced")]


async def test_evicting_from_an_edge_that_is_away_is_no_error(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 9)
    mesh.dead_edges = {"edge"}

    await delivery.evict(mesh.connections[0], 4101, "replaced")

    assert mesh.delivered == []


async def test_a_sampled_event_is_a_span_for_each_edge_and_goes_on_from_there(
    mesh: LoneMesh, delivery: Delivery
) -> None:
    mesh.connect("ann", 1, "edge-a", "phone")
    mesh.connect("ann", 1, "edge-b", "laptop")

    with recording(ratio=0.0) as recorded:
        await delivery.to_users(
            [UserEvent("ann", "message", b"hi", 1, traceparent=TRACEPARENT), message("ann", b"ho", 2)]
        )

    spans = recorded.named("deliver message")
    assert {parent_of(span) for span in spans} == {TRACEPARENT[36:52]}
    sent = {edge_id: [item.traceparent for item in batch.deliveries] for edge_id, batch in mesh.delivered}
    assert sent == {
        str((span.attributes or {})["messaging.destination.name"]): [traceparent(place_of(span)), ""] for span in spans
    }
    assert sorted(sent) == ["edge-a", "edge-b"]


async def test_a_sampled_event_whose_edge_is_away_is_a_span_that_failed(mesh: LoneMesh, delivery: Delivery) -> None:
    mesh.connect("ann", 1)
    mesh.dead_edges = {"edge"}

    with recording(ratio=0.0) as recorded:
        await delivery.to_users([UserEvent("ann", "message", b"hi", 1, traceparent=TRACEPARENT)])

    [span] = recorded.spans
    assert span.status.status_code is StatusCode.ERROR


async def test_who_may_be_connected_and_may_not_have_been_told_is_named_with_the_newest_event(mesh: LoneMesh) -> None:
    unsure: list[UserEvent] = []
    delivery = Delivery(mesh.as_mesh(), unsure.append)
    mesh.connect("ann", 1, "edge-a")
    mesh.connect("ben", 1, "edge-b")
    mesh.dead_edges = {"edge-a"}

    await delivery.to_users([message("ann", b"one", 1), message("ann", b"two", 2), message("ben", b"hi", 1)])

    assert unsure == [message("ann", b"two", 2)]


async def test_nothing_is_sure_while_connections_cannot_be_looked_up(mesh: LoneMesh) -> None:
    unsure: list[UserEvent] = []
    delivery = Delivery(mesh.as_mesh(), unsure.append)
    mesh.failing = {"LookupConnections"}

    await delivery.to_users([message("ann", b"hi", 1), UserEvent("ann", "typing", b"", conflation_key="t")])

    assert unsure == [message("ann", b"hi", 1)]


async def test_who_has_no_connection_at_all_is_no_doubt(mesh: LoneMesh) -> None:
    unsure: list[UserEvent] = []

    await Delivery(mesh.as_mesh(), unsure.append).to_users([message("ann", b"hi", 1)])

    assert unsure == []
