"""What a registry held by another process adds: it can be away, start anew, and refuse who calls."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from discovery.errors import PermissionDenied, Unauthenticated, Unavailable
from discovery.membership import Membership
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Instance, Snapshot
from discovery.registry.remote import Epochs, RemoteRegistry
from discovery.rpc import registry_servicer
from discovery.rpc.server import RpcServer
from hither.mesh.v1 import instance_pb2, registry_pb2
from hither.mesh.v1 import registry_service_pb2 as pb
from hither.mesh.v1.registry_service_pb2_grpc import RegistryServiceStub
from tests.support.clock import ManualClock
from tests.support.cluster import Keys
from tests.support.registries import serving

ONE = Instance("hither.test.v1.TestService", "one", address="127.0.0.1:1")
TWO = Instance("hither.test.v1.TestService", "two", address="127.0.0.1:2")
TTL_S = 10.0


@pytest.fixture
def keys() -> Keys:
    return Keys()


async def holding(*instances: Instance) -> EmbeddedRegistry:
    """A registry that has just started, with these in it."""
    registry = EmbeddedRegistry(ManualClock())
    lease = await registry.grant(TTL_S)
    for instance in instances:
        await registry.put(instance, lease)
    return registry


async def soon(snapshots: AsyncIterator[Snapshot]) -> Snapshot:
    async with asyncio.timeout(30):
        return await anext(snapshots)


async def test_a_watch_goes_on_with_a_registry_that_has_started_anew(keys: Keys) -> None:
    """The second life has fewer revisions behind it than the first."""
    async with serving(await holding(ONE, TWO), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        watch = registry.watch()
        before = await soon(watch)

    async with serving(await holding(TWO), keys, server.address):
        after = await soon(watch)
    await registry.close()

    assert [before.instances, after.instances] == [(ONE, TWO), (TWO,)]
    assert after.revision > before.revision


async def test_a_member_sees_the_second_life_of_the_registry_and_joins_it(keys: Keys) -> None:
    async with serving(await holding(TWO), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        member = Membership(registry, 16, ManualClock(), on_change=lambda: None)
        await member.join()
        await member.put(ONE)

    async with serving(await holding(), keys, server.address):
        await until_reachable(registry)
        await member.renew()
        await member.refresh()
    await registry.close()

    assert member.view.of(ONE.service).serving == (ONE,)


async def until_reachable(registry: RemoteRegistry) -> None:
    """The first snapshot of a watch, which comes as soon as the other end is there again."""
    await soon(registry.watch())


async def test_a_lease_of_an_earlier_life_has_ended_though_its_number_lives(keys: Keys) -> None:
    async with serving(await holding(), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        lease = await registry.grant(TTL_S)

    second = await holding(TWO)
    assert [await second.grant(TTL_S) for _ in range(3)] == [2, 3, 4]
    async with serving(second, keys, server.address):
        await until_reachable(registry)
        answers = [await registry.keep_alive(lease), await registry.put(ONE, lease), await registry.claim_number(lease)]
        await registry.revoke(lease)
    await registry.close()

    assert answers == [False, False, None]
    assert (await second.snapshot()).instances == (TWO,)
    assert await second.keep_alive(2)


async def test_a_registry_that_cannot_be_reached_is_an_engine_that_is_down(keys: Keys) -> None:
    async with serving(await holding(), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)

    for asked in (registry.snapshot(), registry.grant(TTL_S), registry.keep_alive(1 << 64 | 1)):
        with pytest.raises(Unavailable) as caught:
            await asked
        assert caught.value.reason == "ENGINE_DOWN"
    await registry.close()


async def test_a_registry_that_is_away_behind_the_other_process_is_an_engine_that_is_down(keys: Keys) -> None:
    class Away(EmbeddedRegistry):
        async def snapshot(self) -> Snapshot:
            raise RuntimeError("a bug in there")

    async with serving(Away(), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        with pytest.raises(Unavailable) as caught:
            await registry.snapshot()
        await registry.close()

    assert caught.value.reason == "ENGINE_DOWN"


async def test_a_closed_registry_answers_nobody(keys: Keys) -> None:
    async with serving(await holding(), keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        await registry.close()

        with pytest.raises(Unavailable):
            await registry.snapshot()
        assert [snapshot async for snapshot in registry.watch()] == []


async def test_only_a_process_of_the_cluster_is_answered(keys: Keys) -> None:
    async with serving(await holding(ONE), keys) as server:
        stranger, user = RemoteRegistry(server.address, Keys().service_token), RemoteRegistry(server.address, keys.sign)
        with pytest.raises(Unauthenticated):
            await stranger.snapshot()
        with pytest.raises(PermissionDenied):
            await user.snapshot()
        with pytest.raises(Unauthenticated):
            await soon(stranger.watch())
        with pytest.raises(PermissionDenied):
            await soon(user.watch())
        await stranger.close()
        await user.close()


async def test_a_drain_ends_the_watches_and_takes_no_more(keys: Keys) -> None:
    async with serving(await holding(ONE), keys) as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = watching(channel, keys)
        assert isinstance(await stream.read(), pb.WatchSnapshotsResponse)

        await drained_in_time(server)

        assert await stream.read() is grpc.aio.EOF


async def drained_in_time(server: RpcServer) -> None:
    async with asyncio.timeout(30):
        await server.drain(grace_s=60)


def watching(
    channel: grpc.aio.Channel, keys: Keys
) -> "grpc.aio.UnaryStreamCall[pb.WatchSnapshotsRequest, pb.WatchSnapshotsResponse]":
    metadata = (("authorization", f"Bearer {keys.service_token()}"),)
    return RegistryServiceStub(channel).WatchSnapshots(pb.WatchSnapshotsRequest(), metadata=metadata)


async def test_no_more_watch_than_may(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_servicer.RegistryServicer.__init__, "__defaults__", (1,))
    async with serving(await holding(ONE), keys) as server, grpc.aio.insecure_channel(server.address) as channel:
        first = watching(channel, keys)
        assert isinstance(await first.read(), pb.WatchSnapshotsResponse)
        second = watching(channel, keys)

        async with asyncio.timeout(30):
            assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def snapshot_of(epoch: int, revision: int) -> registry_pb2.RegistrySnapshot:
    return registry_pb2.RegistrySnapshot(epoch=epoch, revision=revision)


def test_revisions_ascend_across_epochs() -> None:
    epochs = Epochs()

    taken = [epochs.take(snapshot_of(epoch, revision)) for epoch, revision in [(7, 5), (7, 6), (9, 1), (9, 2), (3, 1)]]

    assert [snapshot.revision for snapshot in taken if snapshot] == [5, 6, 7, 8, 9]


def test_what_comes_late_from_a_past_epoch_is_not_taken() -> None:
    epochs = Epochs()
    epochs.take(snapshot_of(7, 5))
    epochs.take(snapshot_of(9, 1))

    assert epochs.take(snapshot_of(7, 6)) is None
    assert epochs.take(snapshot_of(9, 1)) == Snapshot(6)


def test_equal_snapshots_have_equal_revisions_however_they_came() -> None:
    epochs = Epochs()

    assert epochs.take(snapshot_of(7, 5)) == epochs.take(snapshot_of(7, 5))


def test_an_instance_in_an_unknown_state_takes_no_new_work() -> None:
    message = snapshot_of(1, 1)
    message.instances.append(instance_pb2.Instance.FromString(b"\x40\x09"))  # state: 9, as a later version may send

    snapshot = Epochs().take(message)

    assert snapshot is not None
    assert snapshot.instances[0].state.name == "DRAINING"
