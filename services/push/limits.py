"""How often: the last alert of each pair of receiver and sender, and what each device may still be sent. Pure, and bounded."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from xxhash import xxh3_64_intdigest

from services.push.pipeline_settings import PushPolicySettings


def pair_of(user_id: str, sender_id: str) -> int:
    """A number for the pair of receiver and sender, the same in every process."""
    return xxh3_64_intdigest(f"{user_id}\0{sender_id}".encode())


class LastAlerts:
    """When pairs of receiver and sender had their last alert, for those that had one within `pair_interval_s`. By partition, since
    some of them are committed with it.
    """

    def __init__(self, settings: PushPolicySettings) -> None:
        self._interval_ms = round(settings.pair_interval_s * 1000)
        self._most = settings.most_pairs
        self._partitions: dict[int, OrderedDict[int, int]] = {}
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def free_at(self, partition: int, user_id: str, sender_ids: Iterable[str]) -> int:
        """When (milliseconds since 1970) there may be an alert for the user that stands for messages of all these senders."""
        known = self._partitions.get(partition)
        if not known:
            return 0
        last_ms = max((known.get(pair_of(user_id, sender_id), 0) for sender_id in sender_ids), default=0)
        return last_ms + self._interval_ms if last_ms else 0

    def alerted(self, partition: int, user_id: str, sender_ids: Iterable[str], now_ms: int) -> None:
        """There is one now."""
        self.restore(partition, {pair_of(user_id, sender_id): now_ms for sender_id in sender_ids})
        self._forget_old(partition, now_ms)

    def newest(self, partition: int, most: int) -> Mapping[int, int]:
        """The last alerts of the partition's pairs, the newest."""
        known = self._partitions.get(partition, OrderedDict[int, int]())
        return {pair: known[pair] for pair, _ in zip(reversed(known), range(most), strict=False)}

    def restore(self, partition: int, alerts: Mapping[int, int]) -> None:
        """Pairs had their last alert then; in ascending order of time."""
        known = self._partitions.setdefault(partition, OrderedDict())
        before = len(known)
        for pair, at_ms in alerts.items():
            known[pair] = at_ms
            known.move_to_end(pair)
        self._held += len(known) - before

    def forget(self, partition: int) -> None:
        """The partition is another's now."""
        self._held -= len(self._partitions.pop(partition, ()))

    def _forget_old(self, partition: int, now_ms: int) -> None:
        known = self._partitions[partition]
        before = len(known)
        excess = self._held - self._most
        while known and (excess > 0 or known[next(iter(known))] <= now_ms - self._interval_ms):
            known.popitem(last=False)
            excess -= 1
        self._held -= before - len(known)


class Budgets:
    """A bucket of alerts and one of silent pushes for each device. What was taken is not given back."""

    def __init__(self, settings: PushPolicySettings) -> None:
        self._rates_per_ms = {False: settings.alerts_per_hour / 3_600_000, True: settings.silent_per_hour / 3_600_000}
        self._bursts = {False: float(settings.alert_burst), True: float(settings.silent_burst)}
        self._most = 2 * settings.most_devices
        self._buckets: OrderedDict[tuple[str, str, bool], tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, user_id: str, device_id: str, now_ms: int, *, silent: bool) -> bool:
        """Takes one for a push to the device; False if there is none left."""
        key = user_id, device_id, silent
        burst = self._bursts[silent]
        left, since_ms = self._buckets.pop(key, (burst, now_ms))
        left = min(burst, left + max(0, now_ms - since_ms) * self._rates_per_ms[silent])
        enough = left >= 1.0
        self._buckets[key] = (left - 1.0 if enough else left), now_ms
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return enough
