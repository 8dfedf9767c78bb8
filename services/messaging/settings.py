"""What an operator may set about messaging, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessagingSettings:
    """Limits and intervals of the messaging service. All counts are at least 1, all times more than 0 unless said."""

    send_rate_per_s: float = 50.0
    """Messages a second that one sender may keep up; admitted by the owner of each conversation by itself."""
    send_burst: int = 200
    """Messages that a sender who was quiet may send at once."""
    most_senders: int = 100_000
    """Senders whose rate is remembered; who is forgotten begins with a full burst."""
    most_waiting_sends: int = 20_000
    """Sends that wait for their outcome in this process; more are refused as OVERLOADED."""
    most_recent_outcomes: int = 20_000
    """Accepted messages that are remembered to answer retries without the log; 0 for none."""
    membership_ttl_s: float = 300.0
    """How long an answer of the directory is used without asking again."""
    membership_stale_s: float = 600.0
    """How long an answer is used while the directory is away."""
    most_memberships: int = 50_000
    """Conversations whose members are remembered."""
    batch_records: int = 512
    """Records that a projection takes at once; at most 1,000."""
    batch_bytes: int = 512 * 1024
    """Bytes of records that a projection of messages takes at once. Half of the log's limit for a record, since one record
    for a partition holds a whole batch."""
    engine_timeout_s: float = 10.0
    """How long a projection waits for an engine before it starts again from its committed offset."""
    commit_interval_s: float = 1.0
    """Least time between two commits of a projection over a partition; 0 for none. What lies between is applied again
    after a crash, to no effect on rows."""
    append_timeout_s: float = 5.0
    """How long the appending of sends may take before their outcome counts as unknown."""
    delivery_timeout_s: float = 2.0
    """How long telling the connected devices may hold back an inbox partition's commits."""
    most_undelivered: int = 10_000
    """Events of one inbox partition that wait for delivery; of more, devices learn by their next sync."""
    most_untold: int = 20_000
    """Users who may not have been told of their newest event and are told again; of more, devices learn by their next sync."""
    leave_timeout_s: float = 3.0
    """How long a partition that has moved may take to finish the sends that it took here."""
    retry_min_s: float = 0.1
    """First pause of a projection that failed; doubled each time."""
    retry_max_s: float = 2.0
    """Longest pause of a projection that fails."""
    most_pending_acknowledgements: int = 50_000
    """Devices whose acknowledgement waits; more are refused as OVERLOADED."""
    acknowledgement_interval_s: float = 0.05
    """How long acknowledgements gather before they are worked off; 0 for not at all."""
    acknowledgement_rows: int = 1_000
    """Inbox rows that one acknowledgement looks at, the newest; older conversations in it keep their marks."""
    most_recent_rows: int = 50_000
    """Inbox rows whose place is remembered to work off acknowledgements without the store."""
    most_recent_activity: int = 50_000
    """Conversations of users whose state is remembered, so that the next message needs no look into the store."""
    most_signals: int = 20_000
    """Conflated events that wait for delivery; the oldest are dropped beyond."""
    page_bytes: int = 1024 * 1024
    """Bytes of messages on one page; a page ends early beyond, never empty."""
    most_tails: int = 10_000
    """Conversations whose newest messages are remembered, those that were read last."""
    most_tail_bytes: int = 64 * 1024 * 1024
    """Bytes that they may take together."""
    shared_tail_ttl_s: float = 86_400.0
    """How long the newest messages of a conversation stay in the cache that instances share."""
    shared_tail_timeout_s: float = 0.05
    """How long a read waits for that cache before it goes on without it."""
    shared_tail_pause_s: float = 5.0
    """How long that cache is left alone after it failed."""
    trim_interval_s: float = 60.0
    """How often the log lets go of what every projection is done with."""
    trim_margin: int = 10_000
    """Offsets before the committed one that are kept nevertheless."""
    most_push_records: int = 50_000
    """Offsets of each partition of "push" that are kept at most, read or not; more than push keeps unsettled (`window_offsets`)."""
