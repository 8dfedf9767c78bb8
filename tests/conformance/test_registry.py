"""What every registry promises, over every adapter."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest

from discovery.errors import ResourceExhausted
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.metrics import RegistryMetrics
from discovery.registry.port import INSTANCE_NUMBERS, Instance, InstanceState, Registry
from discovery.registry.remote import RemoteRegistry
from tests.support.clock import ManualClock
from tests.support.cluster import Keys
from tests.support.registries import serving
from tests.support.servers.etcd import EtcdCluster

LONG_S = 300.0
ONE = Instance("hither.test.v1.TestService", "one", address="127.0.0.1:1")
TWO = replace(ONE, instance_id="two")


@dataclass(frozen=True)
class Subject:
    """A registry under test, how long the leases of its tests live, and how time passes for it."""

    registry: Registry
    ttl_s: float
    pass_time: Callable[[float], Awaitable[None]]
    outlive: Callable[[int], Awaitable[None]]
    """Returns when the lease, which nobody renews, has run out."""


@asynccontextmanager
async def embedded() -> AsyncIterator[Subject]:
    clock, ttl_s = ManualClock(), 10.0
    registry = EmbeddedRegistry(clock)

    async def pass_time(seconds: float) -> None:
        clock.advance(seconds)

    async def outlive(lease: int) -> None:
        clock.advance(ttl_s + 1)

    yield Subject(registry, ttl_s, pass_time, outlive)
    await registry.close()


@asynccontextmanager
async def over_etcd(server: EtcdCluster) -> AsyncIterator[Subject]:
    registry = await EtcdRegistry.open(server.endpoints, uuid4().hex, metrics=RegistryMetrics())

    async def outlive(lease: int) -> None:
        await asyncio.to_thread(server.outlive, lease)

    # etcd's own clock runs its leases, so here time really passes.
    yield Subject(registry, 2.0, asyncio.sleep, outlive)
    await registry.close()


@asynccontextmanager
async def remote() -> AsyncIterator[Subject]:
    """An embedded registry that another end of a loopback connection holds."""
    keys = Keys()
    async with embedded() as held, serving(held.registry, keys) as server:
        registry = RemoteRegistry(server.address, keys.service_token)
        yield Subject(registry, held.ttl_s, held.pass_time, held.outlive)
        await registry.close()


def made_as(name: str, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Subject]:
    match name:
        case "embedded":
            return embedded()
        case "remote":
            return remote()
        case _:
            return over_etcd(request.getfixturevalue("etcd"))


@pytest.fixture(params=["embedded", "remote", "etcd"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with made_as(request.param, request) as subject:
        yield subject


async def test_what_was_put_is_in_the_snapshot(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)

    assert await subject.registry.put(ONE, lease)

    assert (await subject.registry.snapshot()).instances == (ONE,)


async def test_instances_come_in_order_of_service_and_id(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    other = replace(ONE, service="hither.a.v1.AService", instance_id="zzz")

    for instance in (TWO, ONE, other):
        await subject.registry.put(instance, lease)

    assert (await subject.registry.snapshot()).instances == (other, ONE, TWO)


async def test_a_second_put_replaces_the_instance(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    draining = replace(ONE, state=InstanceState.DRAINING, load=0.5)

    await subject.registry.put(ONE, lease)
    await subject.registry.put(draining, lease)

    assert (await subject.registry.snapshot()).instances == (draining,)


async def test_every_change_has_a_greater_revision(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    revisions = [(await subject.registry.snapshot()).revision]

    for instance in (ONE, TWO, replace(ONE, weight=200)):
        await subject.registry.put(instance, lease)
        revisions.append((await subject.registry.snapshot()).revision)

    assert revisions == sorted(set(revisions))


async def test_leases_are_never_zero_and_never_the_same(subject: Subject) -> None:
    leases = [await subject.registry.grant(LONG_S) for _ in range(10)]

    assert 0 not in leases
    assert len(set(leases)) == 10


async def test_instances_go_with_their_lease(subject: Subject) -> None:
    short, long = await subject.registry.grant(subject.ttl_s), await subject.registry.grant(LONG_S)
    await subject.registry.put(ONE, short)
    await subject.registry.put(TWO, long)

    await subject.outlive(short)

    assert (await subject.registry.snapshot()).instances == (TWO,)


async def test_a_lease_that_is_kept_alive_lives_on(subject: Subject) -> None:
    lease = await subject.registry.grant(subject.ttl_s)
    await subject.registry.put(ONE, lease)

    await subject.pass_time(subject.ttl_s * 0.7)
    assert await subject.registry.keep_alive(lease)
    await subject.pass_time(subject.ttl_s * 0.7)

    assert (await subject.registry.snapshot()).instances == (ONE,)


async def test_a_lease_that_has_ended_stays_ended(subject: Subject) -> None:
    lease = await subject.registry.grant(subject.ttl_s)

    await subject.outlive(lease)

    assert not await subject.registry.keep_alive(lease)
    assert not await subject.registry.put(ONE, lease)
    assert await subject.registry.claim_number(lease) is None
    assert (await subject.registry.snapshot()).instances == ()


async def test_revoking_ends_a_lease_at_once_and_may_be_repeated(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    await subject.registry.put(ONE, lease)

    await subject.registry.revoke(lease)
    await subject.registry.revoke(lease)

    assert (await subject.registry.snapshot()).instances == ()
    assert not await subject.registry.keep_alive(lease)


async def test_an_instance_hangs_on_the_lease_that_put_it_last(subject: Subject) -> None:
    first, second = await subject.registry.grant(LONG_S), await subject.registry.grant(LONG_S)
    await subject.registry.put(ONE, first)
    await subject.registry.put(ONE, second)

    await subject.registry.revoke(first)

    assert (await subject.registry.snapshot()).instances == (ONE,)


async def test_live_leases_hold_different_numbers(subject: Subject) -> None:
    leases = [await subject.registry.grant(LONG_S) for _ in range(5)]

    numbers = [await subject.registry.claim_number(lease) for lease in leases]

    assert numbers == [0, 1, 2, 3, 4]


async def test_a_lease_gets_the_same_number_again(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)

    assert await subject.registry.claim_number(lease) == await subject.registry.claim_number(lease) == 0


async def test_the_lowest_free_number_is_taken_next(subject: Subject) -> None:
    leases = [await subject.registry.grant(LONG_S) for _ in range(3)]
    for lease in leases:
        await subject.registry.claim_number(lease)

    await subject.registry.revoke(leases[1])

    assert await subject.registry.claim_number(await subject.registry.grant(LONG_S)) == 1


async def test_a_wanted_number_is_given_if_it_is_free(subject: Subject) -> None:
    first, second = await subject.registry.grant(LONG_S), await subject.registry.grant(LONG_S)

    assert await subject.registry.claim_number(first, 7) == 7
    assert await subject.registry.claim_number(second, 7) == 0


async def test_no_lease_holds_nothing(subject: Subject) -> None:
    assert not await subject.registry.keep_alive(0)
    assert not await subject.registry.put(ONE, 0)
    assert await subject.registry.claim_number(0) is None
    assert (await subject.registry.snapshot()).instances == ()


async def test_when_all_numbers_are_held_there_is_none(subject: Subject) -> None:
    for _ in range(INSTANCE_NUMBERS):
        await subject.registry.claim_number(await subject.registry.grant(LONG_S))
    one_more = await subject.registry.grant(LONG_S)

    with pytest.raises(ResourceExhausted, match="numbers"):
        await subject.registry.claim_number(one_more)


async def test_a_watch_begins_with_the_present(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    await subject.registry.put(ONE, lease)

    snapshot = await anext(subject.registry.watch())

    assert snapshot == await subject.registry.snapshot()


async def test_a_watch_of_an_empty_registry_says_so(subject: Subject) -> None:
    assert (await anext(subject.registry.watch())).instances == ()


async def test_a_watch_tells_of_puts_and_of_leases_that_end(subject: Subject) -> None:
    lease = await subject.registry.grant(subject.ttl_s)
    watch = subject.registry.watch()
    seen = [(await anext(watch)).instances]

    await subject.registry.put(ONE, lease)
    seen.append((await anext(watch)).instances)
    await subject.outlive(lease)
    await subject.registry.snapshot()
    seen.append((await anext(watch)).instances)

    assert seen == [(), (ONE,), ()]


async def test_a_waiting_watch_wakes_at_a_change(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    watch = subject.registry.watch()
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    await subject.registry.put(ONE, lease)

    assert (await asyncio.wait_for(waiting, 30)).instances == (ONE,)


async def test_a_slow_watch_gets_the_newest_only(subject: Subject) -> None:
    lease = await subject.registry.grant(LONG_S)
    watch = subject.registry.watch()
    await anext(watch)
    for weight in (1, 2, 3):
        await subject.registry.put(replace(ONE, weight=weight), lease)

    newest = await subject.registry.snapshot()
    snapshot = await anext(watch)
    while snapshot.revision < newest.revision:
        snapshot = await anext(watch)

    assert snapshot.instances == (replace(ONE, weight=3),)


async def test_closing_ends_the_watches(subject: Subject) -> None:
    watch = subject.registry.watch()
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)

    await subject.registry.close()
    await subject.registry.close()

    assert await asyncio.wait_for(waiting, 30) is None
