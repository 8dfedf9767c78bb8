import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from discovery.errors import Unavailable
from discovery.membership import LEASE_S, NUMBER_LEASE_S, RENEWAL_S, LeaseLost, Membership, OtherPartitions
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.metrics import RegistryMetrics
from discovery.registry.port import Instance, InstanceState, Snapshot
from tests.support.clock import ManualClock

ONE = Instance("hither.a.v1.AService", "one")
TWO = Instance("hither.b.v1.BService", "one")


class Failing(EmbeddedRegistry):
    """A registry that can be away: for everything, or for some of it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.away: set[str] = set()
        self.loses_claim = False

    async def grant(self, ttl_s: float) -> int:
        self._check("grant")
        return await super().grant(ttl_s)

    async def keep_alive(self, lease: int) -> bool:
        self._check("keep_alive")
        return await super().keep_alive(lease)

    async def put(self, instance: Instance, lease: int) -> bool:
        self._check("put")
        return await super().put(instance, lease)

    async def claim_number(self, lease: int, wanted: int | None = None) -> int | None:
        number = await super().claim_number(lease, wanted)
        if self.loses_claim:
            self.loses_claim = False
            raise Unavailable("the answer was lost")
        return number

    async def snapshot(self) -> Snapshot:
        self._check("snapshot")
        return await super().snapshot()

    async def revoke(self, lease: int) -> None:
        self._check("revoke")
        await super().revoke(lease)

    def _check(self, method: str) -> None:
        if method in self.away:
            raise Unavailable("away")


EVERYTHING = {"grant", "keep_alive", "put", "snapshot", "revoke"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(clock: ManualClock) -> Failing:
    return Failing(clock)


@pytest.fixture
def metrics() -> RegistryMetrics:
    return RegistryMetrics(CollectorRegistry())


@pytest.fixture
async def member(registry: Failing, clock: ManualClock, metrics: RegistryMetrics) -> Membership:
    member = Membership(registry, 16, clock, on_change=lambda: None, metrics=metrics)
    await member.join()
    await member.put(ONE)
    return member


async def be_away(member: Membership, clock: ManualClock, registry: Failing, seconds: float) -> None:
    """The registry is away for that long, and the member tries to renew all the time."""
    registry.away = set(EVERYTHING)
    for _ in range(int(seconds / LEASE_S)):
        clock.advance(LEASE_S)
        await member.renew()
    registry.away = set()


async def test_a_member_has_a_number_and_sees_itself(member: Membership) -> None:
    assert member.number == 0
    assert member.view.of(ONE.service).serving == (ONE,)
    assert not member.fenced


async def test_renewed_leases_live_on(member: Membership, registry: Failing, clock: ManualClock) -> None:
    for _ in range(int(2 * NUMBER_LEASE_S / RENEWAL_S)):
        clock.advance(RENEWAL_S)
        assert await member.renew()

    assert (await registry.snapshot()).instances == (ONE,)
    assert await registry.claim_number(await registry.grant(LEASE_S)) == 1


async def test_a_registry_that_is_away_is_no_reason_to_stop(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    await be_away(member, clock, registry, NUMBER_LEASE_S / 2)

    assert not member.fenced
    assert member.view.of(ONE.service).serving == (ONE,)


async def test_a_member_that_could_not_renew_its_number_for_too_long_stops_by_itself(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    await be_away(member, clock, registry, NUMBER_LEASE_S)

    assert member.fenced


async def test_a_process_that_slept_too_long_stops_before_it_asks(
    member: Membership, registry: Failing, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fenced_when_asked = []

    async def keep_alive(lease: int) -> bool:
        fenced_when_asked.append(member.fenced)
        raise Unavailable("away")

    monkeypatch.setattr(registry, "keep_alive", keep_alive)
    clock.advance(NUMBER_LEASE_S)

    await member.renew()

    assert fenced_when_asked == [True]


async def test_contact_ends_the_fencing_when_the_number_is_still_free(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    await be_away(member, clock, registry, 2 * NUMBER_LEASE_S)

    assert await member.renew()

    assert not member.fenced
    assert member.number == 0
    assert (await registry.snapshot()).instances == (ONE,)


async def test_a_member_that_slept_longer_than_its_lease_comes_back_with_its_number(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(2 * LEASE_S)
    assert (await registry.snapshot()).instances == ()
    assert await registry.claim_number(await registry.grant(LEASE_S)) == 1

    await member.renew()

    assert (await registry.snapshot()).instances == (ONE,)
    assert not member.fenced
    assert member.number == 0


async def test_a_member_whose_lease_has_ended_is_fenced_until_it_is_registered_again(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(2 * LEASE_S)
    registry.away = {"grant"}

    await member.renew()
    fenced = member.fenced
    registry.away = set()
    await member.renew()

    assert fenced
    assert not member.fenced
    assert member.view.of(ONE.service).serving == (ONE,)


async def test_a_put_that_finds_the_lease_ended_takes_a_new_one_for_everything(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(2 * LEASE_S)

    await member.put(TWO)

    assert (await registry.snapshot()).instances == (ONE, TWO)
    assert not member.fenced


async def test_the_own_number_is_taken_back_though_a_lower_one_is_free(
    registry: Failing, clock: ManualClock, metrics: RegistryMetrics
) -> None:
    lower = await registry.grant(LEASE_S)
    await registry.claim_number(lower)
    member = Membership(registry, 16, clock, on_change=lambda: None, metrics=metrics)
    await member.join()
    await registry.revoke(lower)
    clock.advance(2 * NUMBER_LEASE_S)

    await member.renew()

    assert member.number == 1
    assert not member.fenced


async def test_a_number_that_another_took_ends_the_member(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(NUMBER_LEASE_S + 1)
    await registry.claim_number(await registry.grant(LEASE_S))

    with pytest.raises(LeaseLost):
        await member.renew()

    assert member.fenced
    assert await registry.claim_number(await registry.grant(LEASE_S)) == 1


async def test_a_put_does_not_bring_back_a_member_whose_number_is_gone(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(NUMBER_LEASE_S + 1)
    await registry.claim_number(await registry.grant(LEASE_S))

    with pytest.raises(LeaseLost):
        await member.put(TWO)

    assert member.fenced


async def test_a_claim_whose_answer_was_lost_is_not_taken_for_another_process(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(NUMBER_LEASE_S + 1)
    registry.loses_claim = True

    answered = await member.renew()

    assert not answered
    assert member.fenced
    assert await member.renew()
    assert member.number == 0
    assert not member.fenced


async def test_what_could_not_be_put_is_put_with_the_next_renewal(member: Membership, registry: Failing) -> None:
    registry.away = {"put"}
    with pytest.raises(Unavailable):
        await member.put_all(InstanceState.DRAINING, load=0.5)
    registry.away = set()

    await member.renew()

    assert (await registry.snapshot()).instances == (replace(ONE, state=InstanceState.DRAINING, load=0.5),)


async def test_draining_shows_in_the_registry(member: Membership, registry: Failing) -> None:
    await member.put(TWO)

    await member.put_all(InstanceState.DRAINING, load=0.25)

    instances = (await registry.snapshot()).instances
    assert [(one.state, one.load) for one in instances] == [(InstanceState.DRAINING, 0.25)] * 2
    assert member.view.of(ONE.service).serving == ()


async def test_a_member_that_has_fallen_out_of_the_registry_does_not_wait_for_its_next_renewal(
    member: Membership, registry: Failing, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.membership.RENEWAL_S", 1000.0)
    keeping = asyncio.create_task(member.keep())
    following = asyncio.create_task(member.follow())
    clock.advance(LEASE_S + 1)
    watch = registry.watch()
    fallen = await anext(watch)

    back = await asyncio.wait_for(anext(watch), 30)

    keeping.cancel()
    following.cancel()
    await asyncio.wait({keeping, following})
    assert (fallen.instances, back.instances) == ((), (ONE,))


async def test_leaving_takes_everything_back(member: Membership, registry: Failing) -> None:
    await member.leave()

    assert (await registry.snapshot()).instances == ()
    assert await registry.claim_number(await registry.grant(LEASE_S)) == 0
    assert member.fenced


async def test_leaving_takes_back_what_was_about_to_be_registered(
    member: Membership, registry: Failing, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = registry.put

    async def put_and_be_cancelled(instance: Instance, lease: int) -> bool:
        await put(instance, lease)
        raise asyncio.CancelledError

    monkeypatch.setattr(registry, "put", put_and_be_cancelled)
    clock.advance(LEASE_S + 1)
    with pytest.raises(asyncio.CancelledError):
        await member.renew()

    await member.leave()

    assert (await registry.snapshot()).instances == ()


async def test_leaving_a_registry_that_is_away_is_no_error(member: Membership, registry: Failing) -> None:
    registry.away = set(EVERYTHING)

    await member.leave()

    assert member.fenced


async def test_a_member_counts_what_happens_to_it(
    member: Membership, registry: Failing, clock: ManualClock, metrics: RegistryMetrics
) -> None:
    await be_away(member, clock, registry, 2 * LEASE_S)
    await member.renew()

    assert (metrics.failures, metrics.lease_losses, metrics.fenced) == (2, 1, False)
    assert metrics.snapshots >= 2


async def test_a_process_that_was_told_another_number_of_partitions_is_not_let_in(
    registry: Failing, clock: ManualClock
) -> None:
    first = Membership(registry, 16, clock, on_change=lambda: None)
    await first.join()
    await first.put(replace(ONE, partitions=16))
    second = Membership(registry, 4, clock, on_change=lambda: None)

    with pytest.raises(OtherPartitions, match="16 partitions, this process with 4"):
        await second.join()

    third = Membership(registry, 16, clock, on_change=lambda: None)
    await third.join()
    assert (first.number, third.number) == (0, 1)
