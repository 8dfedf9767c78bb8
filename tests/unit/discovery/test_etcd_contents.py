from dataclasses import replace

import pytest
from etcd.api.etcdserverpb import rpc_pb2
from etcd.api.mvccpb import kv_pb2

from discovery.registry.etcd.contents import Contents, decode, encode
from discovery.registry.port import Instance, InstanceState

ONE = Instance("hither.a.v1.AService", "one", "127.0.0.1:1", "eu", "eu-1", 200, "1.2", InstanceState.DRAINING, 0.5)
TWO = replace(ONE, instance_id="two")


def pair(instance: Instance, revision: int) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(key=instance.instance_id.encode(), value=encode(instance), mod_revision=revision)


def answer(revision: int, *pairs: kv_pb2.KeyValue, cluster: int = 1, term: int = 2) -> rpc_pb2.RangeResponse:
    header = rpc_pb2.ResponseHeader(cluster_id=cluster, revision=revision, raft_term=term)
    return rpc_pb2.RangeResponse(header=header, kvs=pairs)


def put(instance: Instance, revision: int) -> kv_pb2.Event:
    return kv_pb2.Event(type=kv_pb2.Event.PUT, kv=pair(instance, revision))


def delete(instance: Instance, revision: int) -> kv_pb2.Event:
    key = instance.instance_id.encode()
    return kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=key, mod_revision=revision))


@pytest.fixture
def contents() -> Contents:
    """ONE, as of revision 10."""
    contents = Contents()
    contents.replace(contents.mark, answer(10, pair(ONE, 10)))
    return contents


def test_an_instance_is_what_it_was_after_the_journey() -> None:
    assert decode(pair(ONE, 1)) == ONE


@pytest.mark.parametrize("value", [b"", b"\xff\xff", b"held"])
def test_a_key_that_holds_no_instance_is_passed_over(value: bytes) -> None:
    assert decode(kv_pb2.KeyValue(key=b"k", value=value)) is None


def test_changes_are_applied_in_order(contents: Contents) -> None:
    contents.apply(contents.mark, 11, [put(TWO, 11)])
    contents.apply(contents.mark, 12, [delete(ONE, 12)])

    assert contents.snapshot().revision == 12
    assert contents.snapshot().instances == (TWO,)


def test_changes_that_a_read_has_shown_already_are_not_applied_again(contents: Contents) -> None:
    mark = contents.mark
    contents.replace(mark, answer(12, pair(TWO, 11)))

    contents.apply(mark, 11, [put(TWO, 11)])
    contents.apply(mark, 12, [delete(ONE, 12)])
    contents.apply(mark, 13, [delete(TWO, 11), put(ONE, 13)])

    assert contents.snapshot().instances == (ONE, TWO)


def test_a_read_that_is_older_than_what_is_known_changes_nothing(contents: Contents) -> None:
    asked = contents.mark
    contents.apply(asked, 12, [put(TWO, 12)])

    assert contents.replace(asked, answer(11, pair(ONE, 10)))

    assert contents.snapshot().instances == (ONE, TWO)


def test_other_keys_make_no_new_snapshot(contents: Contents) -> None:
    before = contents.snapshot()

    contents.replace(contents.mark, answer(20, pair(ONE, 10)))
    contents.apply(contents.mark, 21, [put(ONE, 21)])

    assert contents.snapshot() is before


@pytest.mark.parametrize(
    "lost",
    [answer(3, pair(TWO, 3)), answer(500, pair(TWO, 3), cluster=7), answer(500, pair(TWO, 3), term=1)],
    ids=["lower revision", "other cluster", "earlier term"],
)
def test_a_store_that_lost_its_data_is_believed_and_revisions_ascend(
    contents: Contents, lost: rpc_pb2.RangeResponse
) -> None:
    stale = contents.mark

    contents.replace(contents.mark, lost)
    first = contents.snapshot()
    contents.apply(contents.mark, lost.header.revision + 1, [put(ONE, lost.header.revision + 1)])

    assert first.instances == (TWO,)
    assert first.revision == 11
    assert contents.snapshot().instances == (ONE, TWO)
    assert contents.snapshot().revision == 12
    assert not contents.apply(stale, 1000, [delete(ONE, 1000)])
    assert not contents.replace(stale, answer(1000))
