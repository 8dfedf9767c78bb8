"""How often one network address may ask for what needs no credentials."""

import ipaddress
from collections import OrderedDict

from discovery.clock import Clock
from discovery.errors import ResourceExhausted
from edge.limits import TokenBucket


class AddressLimiter:
    """A token bucket for each address, at most `addresses` of them.

    An IPv6 address counts as its /64, which is what one customer gets. Forgetting an address gives it a full bucket:
    with more attackers than buckets the limit is weaker, never the memory larger.
    """

    def __init__(self, rate_per_s: float, burst: int, addresses: int, clock: Clock) -> None:
        if rate_per_s <= 0 or burst < 1 or addresses < 1:
            raise ValueError("a limit must let something through")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._addresses = addresses
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str) -> None:
        """Counts one request. Raises ResourceExhausted RATE_LIMITED if it is one too many."""
        now_s = self._clock.monotonic_s()
        key = _network(address)
        bucket = self._buckets.pop(key, None) or TokenBucket(self._rate_per_s, self._burst, now_s)
        self._buckets[key] = bucket
        if len(self._buckets) > self._addresses:
            self._buckets.popitem(last=False)
        if not bucket.take(now_s):
            raise ResourceExhausted(
                "too many requests from this address", reason="RATE_LIMITED", retry_after_s=bucket.wait_s()
            )


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
