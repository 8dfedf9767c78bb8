"""What an operator may set about push, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PushPolicySettings:
    """When pushes are sent. All counts are at least 1, all times more than 0."""

    pair_interval_s: float = 60.0
    """Least time between two alerts for one receiver that stand for messages of the same sender, calls excepted."""
    group_gather_s: float = 300.0
    """How long messages of a group are gathered into one push, from the first on; silent pushes are gathered as long."""
    group_messages: int = 10
    """With so many gathered a group's push does not wait longer than `pair_interval_s` after its first message."""
    longest_wait_s: float = 600.0
    """What the limits on alerts hold back longer than this after its first message is sent silently."""
    most_age_s: float = 86_400.0
    """Messages that are older when they are read from the log are not pushed any more."""
    call_lifetime_s: float = 30.0
    """How long after it was accepted a call rings; later it is a message like any other."""
    silent_lifetime_s: float = 3_600.0
    """How long a provider keeps a silent push for a device that it cannot reach; of others `most_age_s`."""
    alerts_per_hour: float = 60.0
    """Alerts that one device is sent in an hour, in the long run; calls are not counted."""
    alert_burst: int = 20
    """Alerts that a device which was left alone may be sent at once."""
    silent_per_hour: float = 3.0
    """Silent pushes that one device is sent in an hour, in the long run: Apple allows two or three."""
    silent_burst: int = 3
    """Silent pushes that a device which was left alone may be sent at once."""
    most_gathered: int = 500_000
    """Messages that are gathered in this process, at some 250 bytes each; beyond, the oldest gatherings are sent before their time."""
    most_gatherings: int = 100_000
    """Pushes that they are gathered for, at about a kilobyte each; beyond, the same."""
    most_pairs: int = 200_000
    """Pairs of receiver and sender whose last alert is remembered; of more, those of the oldest alerts are forgotten."""
    most_devices: int = 100_000
    """Devices whose budget is remembered; who is forgotten begins with a full burst."""


@dataclass(frozen=True, slots=True)
class PushPipelineSettings:
    """How pushes are sent. All counts are at least 1, all times more than 0 unless said."""

    batch_records: int = 512
    """Records of the log that a partition takes at once; at most 1,000."""
    window_offsets: int = 16_384
    """Offsets of one partition between the oldest record that is not settled and the newest that was read; at most 16,384. At
    the limit what is oldest is sent before its time, or given up if its provider is away."""
    commit_interval_s: float = 1.0
    """Least time between two commits of a partition; 0 for none. What was sent in between is sent again after a crash."""
    engine_timeout_s: float = 10.0
    """How long an answer of the log or the store is waited for."""
    takeover_pause_s: float = 1.0
    """How long a partition that has come waits for the last commit of its owner before; 0 for not at all."""
    leave_timeout_s: float = 3.0
    """How long attempts that are under way may take to end when their partition has moved."""
    retry_min_s: float = 0.5
    """First pause after a failure, of an engine or of an attempt to send; doubled each time."""
    retry_max_s: float = 60.0
    """Longest pause between two attempts to send."""
    engine_retry_max_s: float = 5.0
    """Longest pause before an engine that is away is asked again."""
    attempt_timeout_s: float = 30.0
    """How long one attempt may take at the very most; providers have a deadline of their own, which is shorter."""
    most_in_flight: int = 100
    """Attempts at the same time with one provider."""
    most_queued: int = 20_000
    """Pushes that wait for one provider. At the limit those of a provider that is away are given up, the oldest first; for one
    that is not, reading waits a moment."""
    longest_queue_s: float = 60.0
    """A provider whose queue is full is too slow if the oldest push has waited this long: then it is given up, and nothing waits."""
    give_up_after_s: float = 3_600.0
    """How long a push is tried again."""
    failures_to_probe: int = 5
    """After so many failures in a row a provider is away: it is tried with one push at a time until one is answered."""
    unread_fresh_s: float = 5.0
    """How old the answer to what is unread may be when a push is sent."""
    unread_timeout_s: float = 2.0
    """How long a push waits for what is unread and for names before it is sent without."""
    names_ttl_s: float = 300.0
    """How long a name is used without asking again."""
    most_names: int = 20_000
    """Names of users that are remembered, and as many of groups; the oldest are forgotten beyond."""
    most_unrecorded: int = 10_000
    """Fates that wait for the delivery log; the oldest are lost beyond."""
