"""Which instance is asked where no key decides: one of the caller's own zone if any is fit, and of two the less busy."""

import random
from collections.abc import Callable, Sequence

from discovery.registry.port import Instance
from discovery.rpc.outlier import Outliers


class Chooser:
    """`outstanding` tells how many calls of this process an address has not answered yet."""

    def __init__(self, zone: str, region: str, outliers: Outliers, outstanding: Callable[[str], int]) -> None:
        self._zone = zone
        self._region = region
        self._outliers = outliers
        self._outstanding = outstanding
        self._near: dict[str, tuple[Sequence[Instance], Sequence[Instance]]] = {}

    def choose(self, serving: Sequence[Instance]) -> Instance:
        """One of these, of which there is at least one."""
        fit = self._outliers.fit(serving)
        candidates = self._near_of(serving) if fit is serving else self._nearest(fit)
        if len(candidates) == 1:
            return candidates[0]
        one, other = random.sample(candidates, 2)
        return one if self._outstanding(one.address) <= self._outstanding(other.address) else other

    def _near_of(self, serving: Sequence[Instance]) -> Sequence[Instance]:
        """As `_nearest`, remembered for as long as the service's instances are the same."""
        service = serving[0].service
        seen, near = self._near.get(service, ((), ()))
        if seen is not serving:
            near = self._nearest(serving)
            self._near[service] = (serving, near)
        return near

    def _nearest(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        if not self._zone:
            return instances
        in_zone = [one for one in instances if one.zone == self._zone and one.region == self._region]
        return in_zone or [one for one in instances if one.region == self._region] or instances
