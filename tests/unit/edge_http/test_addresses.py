"""How often one address may ask."""

import pytest

from discovery.errors import ResourceExhausted
from edge.addresses import AddressLimiter
from tests.support.clock import ManualClock


def is_let_through(limiter: AddressLimiter, address: str) -> bool:
    try:
        limiter.take(address)
    except ResourceExhausted:
        return False
    return True


def test_a_burst_is_let_through_and_no_more() -> None:
    limiter = AddressLimiter(1.0, burst=3, addresses=10, clock=ManualClock())
    assert [is_let_through(limiter, "192.0.2.1") for _ in range(4)] == [True, True, True, False]


def test_time_brings_the_right_back() -> None:
    clock = ManualClock()
    limiter = AddressLimiter(0.5, burst=1, addresses=10, clock=clock)
    limiter.take("192.0.2.1")
    with pytest.raises(ResourceExhausted) as caught:
        limiter.take("192.0.2.1")
    assert (caught.value.reason, caught.value.retry_after_s) == ("RATE_LIMITED", 2.0)
    clock.advance(2.0)
    assert is_let_through(limiter, "192.0.2.1")


def test_a_quiet_address_gathers_no_more_than_a_burst() -> None:
    clock = ManualClock()
    limiter = AddressLimiter(1.0, burst=2, addresses=10, clock=clock)
    limiter.take("192.0.2.1")
    clock.advance(1000.0)
    assert [is_let_through(limiter, "192.0.2.1") for _ in range(3)] == [True, True, False]


def test_addresses_do_not_pay_for_each_other() -> None:
    limiter = AddressLimiter(1.0, burst=1, addresses=10, clock=ManualClock())
    limiter.take("192.0.2.1")
    assert is_let_through(limiter, "192.0.2.2")


def test_a_customer_s_ipv6_addresses_count_as_one() -> None:
    limiter = AddressLimiter(1.0, burst=1, addresses=10, clock=ManualClock())
    limiter.take("2001:db8:0:1::1")
    assert not is_let_through(limiter, "2001:db8:0:1:ffff::2")
    assert is_let_through(limiter, "2001:db8:0:2::1")


def test_an_ipv4_address_is_the_same_in_ipv6_clothes() -> None:
    limiter = AddressLimiter(1.0, burst=1, addresses=10, clock=ManualClock())
    limiter.take("::ffff:192.0.2.1")
    assert not is_let_through(limiter, "192.0.2.1")


def test_the_address_that_was_quiet_longest_is_forgotten_first() -> None:
    limiter = AddressLimiter(1.0, burst=1, addresses=2, clock=ManualClock())
    limiter.take("192.0.2.1")
    limiter.take("192.0.2.2")
    assert not is_let_through(limiter, "192.0.2.1")
    limiter.take("192.0.2.3")
    assert not is_let_through(limiter, "192.0.2.1")
    assert is_let_through(limiter, "192.0.2.2")


@pytest.mark.parametrize(("rate_per_s", "burst", "addresses"), [(0.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0)])
def test_a_limit_that_lets_nothing_through_is_a_mistake(rate_per_s: float, burst: int, addresses: int) -> None:
    with pytest.raises(ValueError, match="let something through"):
        AddressLimiter(rate_per_s, burst, addresses, ManualClock())
