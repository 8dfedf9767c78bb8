"""What the clients saw, and whether it is what should have been: pure bookkeeping, no printing, no waiting on anything.

The verdict uses nothing but observations of clients: acks that came, messages that each device was handed, and the history
that the server returns at the end.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hither_client import Ack, Message


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device was handed a message, `latency_s` after its sender called send(). `live`: it was connected all that time."""

    device: str
    message: Message
    pos: int
    latency_s: float
    live: bool


@dataclass(slots=True)
class Record:
    """Everything that was observed."""

    acks: dict[str, Ack] = field(default_factory=dict)
    """By client id."""
    sends: dict[str, float] = field(default_factory=dict)
    """When send() was called, by client id, on the monotonic clock."""
    ack_latencies_s: dict[str, float] = field(default_factory=dict)
    """From the call of send() to its return, by client id."""
    burst: set[str] = field(default_factory=set)
    """Client ids of the sends that the crash fell into."""
    sightings: dict[str, list[Sighting]] = field(default_factory=lambda: defaultdict(list))
    """By device, in order of arrival."""

    def latencies_s(self, *, live: bool) -> list[float]:
        """From send to device, the burst left out."""
        everything = (one for sightings in self.sightings.values() for one in sightings)
        return [one.latency_s for one in everything if one.live is live and one.message.client_id not in self.burst]

    def ack_latencies_of(self, *, burst: bool) -> list[float]:
        """From send to ack, of the sends that the crash fell into or of the others."""
        return [
            latency_s for client_id, latency_s in self.ack_latencies_s.items() if (client_id in self.burst) is burst
        ]

    def burst_latencies_s(self) -> list[float]:
        """From send to device, through the crash."""
        everything = (one for sightings in self.sightings.values() for one in sightings)
        return [one.latency_s for one in everything if one.message.client_id in self.burst]

    def seen_by(self, device: str) -> set[str]:
        """Client ids of the messages that a device has."""
        return {one.message.client_id for one in self.sightings[device]}


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """How a device fared."""

    device: str
    seen: int
    missing: int
    doubled: int
    out_of_order: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of everything."""

    sent: int
    acked: int
    unanswered: int
    in_history: int
    acked_but_not_in_history: int
    acked_elsewhere: int
    """Acked with another seq or message id than history has."""
    doubled_in_history: int
    gaps_in_history: int
    devices: Sequence[DeviceVerdict]

    @property
    def held(self) -> bool:
        """Nothing was lost, doubled or out of order anywhere."""
        wrong = self.unanswered + self.acked_but_not_in_history + self.acked_elsewhere
        wrong += self.doubled_in_history + self.gaps_in_history
        return not wrong and not any(one.missing or one.doubled or one.out_of_order for one in self.devices)


def judge(record: Record, histories: Mapping[str, Sequence[Message]], devices: Mapping[str, Iterable[str]]) -> Verdict:
    """`histories`: by conversation, in order of seq. `devices`: which conversations each device should have everything of."""
    history = [message for messages in histories.values() for message in messages]
    by_client_id = {message.client_id: message for message in history}
    present = {client_id: by_client_id[client_id] for client_id in record.acks if client_id in by_client_id}
    return Verdict(
        sent=len(record.sends),
        acked=len(record.acks),
        unanswered=len(record.sends.keys() - record.acks.keys()),
        in_history=len(history),
        acked_but_not_in_history=len(record.acks) - len(present),
        acked_elsewhere=sum(
            (record.acks[client_id].seq, record.acks[client_id].message_id) != (message.seq, message.message_id)
            for client_id, message in present.items()
        ),
        doubled_in_history=len(history) - len({(message.sender_id, message.client_id) for message in history}),
        gaps_in_history=sum(
            message.seq != place for messages in histories.values() for place, message in enumerate(messages, 1)
        ),
        devices=[_judge_device(name, record.sightings[name], histories, due) for name, due in devices.items()],
    )


def _judge_device(
    name: str, sightings: Sequence[Sighting], histories: Mapping[str, Sequence[Message]], due: Iterable[str]
) -> DeviceVerdict:
    counts = Counter(one.message.message_id for one in sightings)
    expected = {message.message_id for conversation in due for message in histories[conversation]}
    last: dict[str, int] = {}
    out_of_order = 0
    for one in sightings:
        out_of_order += one.message.seq <= last.get(one.message.conversation_id, 0)
        last[one.message.conversation_id] = one.message.seq
    return DeviceVerdict(
        device=name,
        seen=len(counts),
        missing=len(expected - counts.keys()),
        doubled=counts.total() - len(counts),
        out_of_order=out_of_order,
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
