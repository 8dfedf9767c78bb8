from prometheus_client import CollectorRegistry, generate_latest

from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.stream_metrics import StreamMetrics
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, MESSAGING, SEND, Keys, key_in, running_process


def test_the_numbers_become_metrics() -> None:
    metrics, registry = StreamMetrics(), CollectorRegistry()
    metrics.relay_out.open = 2
    metrics.relay_out.resumes = 3
    metrics.deliver_out.losses = 1
    metrics.relay_in.sent(5, 100)
    metrics.relay_in.sent(1, 10)
    metrics.deliver_in.received(7, 70)
    metrics.calls.budget_refusals = 4
    metrics.calls.ejections = 6
    metrics.gauges.read(waiting=lambda: 11, unacknowledged=lambda: 12, ejected=lambda: 13)

    with metrics.shown_in(registry):
        text = generate_latest(registry).decode()

    assert 'hither_stream_open{stream="relay_out"} 2.0' in text
    assert 'hither_stream_resumes_total{stream="relay_out"} 3.0' in text
    assert 'hither_stream_losses_total{stream="deliver_out"} 1.0' in text
    assert 'hither_stream_batches_total{direction="sent",stream="relay_in"} 2.0' in text
    assert 'hither_stream_items_total{direction="sent",stream="relay_in"} 6.0' in text
    assert 'hither_stream_bytes_total{direction="sent",stream="relay_in"} 110.0' in text
    assert 'hither_stream_items_total{direction="received",stream="deliver_in"} 7.0' in text
    assert "hither_call_budget_refusals_total 4.0" in text
    assert "hither_ejections_total 6.0" in text
    assert "hither_calls_waiting 11.0" in text
    assert "hither_deliver_unacknowledged 12.0" in text
    assert "hither_instances_ejected 13.0" in text


def test_they_are_shown_for_the_time_of_the_block() -> None:
    registry = CollectorRegistry()
    with StreamMetrics().shown_in(registry):
        pass

    assert generate_latest(registry) == b""


async def test_both_ends_count_what_a_call_takes() -> None:
    registry, keys = EmbeddedRegistry(), Keys()
    async with running_process(registry, keys, "here") as here, running_process(registry, keys, "there") as there:
        await here.mesh._refresh()
        key = key_in(there.mesh.owned(MESSAGING), there.mesh)
        request = pb.SendMessageRequest(conversation_id=key, client_id="1", text="hi")
        await here.mesh.call(SEND, request, caller=ALICE, timeout_s=5)
        out, in_ = here.mesh.stream_metrics.relay_out, there.mesh.stream_metrics.relay_in

        assert (out.open, out.sent_batches, out.sent_items, out.received_items) == (1, 1, 1, 1)
        assert (in_.open, in_.received_batches, in_.received_items, in_.sent_items) == (1, 1, 1, 1)
        assert out.sent_bytes == in_.received_bytes > 0
