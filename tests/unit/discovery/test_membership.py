import pytest

from discovery.errors import Unavailable
from discovery.membership import LEASE_S, LeaseLost, Membership
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Instance, InstanceState
from tests.support.clock import ManualClock

ONE = Instance("hither.a.v1.AService", "one")


class Failing(EmbeddedRegistry):
    """A registry that can be away."""

    away = False

    async def keep_alive(self, lease: int) -> bool:
        if self.away:
            raise Unavailable("away")
        return await super().keep_alive(lease)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(clock: ManualClock) -> Failing:
    return Failing(clock)


@pytest.fixture
async def member(registry: Failing, clock: ManualClock) -> Membership:
    member = Membership(registry, 16, clock, on_change=lambda: None)
    await member.join()
    await member.put(ONE)
    return member


async def test_a_member_has_a_number_and_sees_itself(member: Membership) -> None:
    assert member.number == 0
    assert member.view.of(ONE.service).serving == (ONE,)
    assert not member.fenced


async def test_a_renewed_lease_lives_on(member: Membership, registry: Failing, clock: ManualClock) -> None:
    for _ in range(10):
        clock.advance(LEASE_S / 3)
        await member.renew()

    assert (await registry.snapshot()).instances == (ONE,)


async def test_a_registry_that_is_away_for_less_than_the_lease_changes_nothing(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    registry.away = True
    clock.advance(LEASE_S - 1)

    await member.renew()

    assert not member.fenced
    assert member.view.of(ONE.service).serving == (ONE,)


async def test_when_the_lease_must_have_run_out_the_member_stops_by_itself(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    registry.away = True
    clock.advance(LEASE_S)

    await member.renew()

    assert member.fenced


async def test_a_lost_lease_is_taken_anew_with_all_that_hung_on_it(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(LEASE_S + 1)
    assert (await registry.snapshot()).instances == ()

    await member.renew()

    assert (await registry.snapshot()).instances == (ONE,)
    assert not member.fenced


async def test_a_number_that_another_took_ends_the_member(
    member: Membership, registry: Failing, clock: ManualClock
) -> None:
    clock.advance(LEASE_S + 1)
    await registry.claim_number(await registry.grant(LEASE_S))

    with pytest.raises(LeaseLost):
        await member.renew()


async def test_leaving_takes_everything_back(member: Membership, registry: Failing) -> None:
    await member.leave()

    assert (await registry.snapshot()).instances == ()
    assert member.fenced


async def test_draining_shows_in_the_registry(member: Membership, registry: Failing) -> None:
    await member.put_all(InstanceState.DRAINING, load=0.25)

    [instance] = (await registry.snapshot()).instances
    assert (instance.state, instance.load) == (InstanceState.DRAINING, 0.25)
