"""Which settings of a topic are at fault."""

import pytest

from services.storage.kafka.topic_settings import CHECKED, complaint, least_in_sync, settings


@pytest.mark.parametrize(("replication", "least"), [(1, 1), (2, 1), (3, 2), (5, 4)])
def test_an_acknowledgement_counts_on_all_replicas_but_one(replication: int, least: int) -> None:
    assert least_in_sync(replication) == least


@pytest.mark.parametrize("replication", [1, 3])
def test_nothing_is_wrong_with_what_is_made_here_nor_with_what_is_not_known(replication: int) -> None:
    made = {name: value for name, value in settings(replication).items() if name in CHECKED}

    assert len(made) == len(CHECKED)
    assert complaint(made, replication) is None
    assert complaint({}, replication) is None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"cleanup.policy": "compact,delete"}, "cleanup.policy is compact,delete, not delete"),
        ({"retention.ms": "604799999"}, "retention.ms is 604799999, which is less than seven days"),
        ({"retention.ms": "604800000"}, None),
        ({"retention.bytes": "0"}, "retention.bytes is 0, not -1"),
        ({"min.insync.replicas": "1"}, "min.insync.replicas is 1, not 2"),
        ({"min.insync.replicas": "3"}, None),
    ],
)
def test_what_would_lose_records_is_named(found: dict[str, str], says: str | None) -> None:
    assert complaint(found, 3) == says
