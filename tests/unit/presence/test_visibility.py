"""Who sees what, for every audience and relation."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from hither.presence.v1.presence_pb2 import PresenceAudience, PresenceEvent, PresencePrivacy, PresenceRecord
from services.ports.privacy_store import Audience, PrivacyRow
from services.presence.visibility import Relation, audience_of, hidden, privacy_message, view
from tests.unit.presence.conftest import AWAY, EVERYONE, FRIENDS, NOBODY, OFFLINE

GONE = PresenceEvent(user_id="ann", status=OFFLINE, last_seen=Timestamp(seconds=7))
THERE = PresenceEvent(user_id="ann", status=AWAY, text="at lunch")
UNSAID = PresenceAudience.PRESENCE_AUDIENCE_UNSPECIFIED


def record(
    event: PresenceEvent, presence: PresenceAudience.ValueType, last_seen: PresenceAudience.ValueType = EVERYONE
) -> PresenceRecord:
    return PresenceRecord(event=event, privacy=PresencePrivacy(presence=presence, last_seen=last_seen))


@pytest.mark.parametrize(
    ("audience", "relations"),
    [(UNSAID, set()), (NOBODY, set()), (FRIENDS, {Relation.FRIEND}), (EVERYONE, set(Relation))],
)
def test_only_those_of_the_audience_see_the_presence(
    audience: PresenceAudience.ValueType, relations: set[Relation]
) -> None:
    seen_by = {relation for relation in Relation if view(record(THERE, audience), relation) == THERE}
    hidden_from = {relation for relation in Relation if view(record(THERE, audience), relation) == hidden("ann")}

    assert seen_by == relations
    assert hidden_from == set(Relation) - relations


@pytest.mark.parametrize(
    ("audience", "relations"),
    [(UNSAID, set()), (NOBODY, set()), (FRIENDS, {Relation.FRIEND}), (EVERYONE, set(Relation))],
)
def test_only_those_of_the_audience_see_when_somebody_was_last_seen(
    audience: PresenceAudience.ValueType, relations: set[Relation]
) -> None:
    told = {relation for relation in Relation if view(record(GONE, EVERYONE, audience), relation) == GONE}

    assert told == relations
    assert view(record(THERE, EVERYONE, audience), Relation.STRANGER) == THERE


def test_nobody_sees_when_somebody_was_last_seen_whose_presence_is_hidden() -> None:
    assert view(record(GONE, NOBODY, EVERYONE), Relation.FRIEND) == hidden("ann")


def test_who_stands_in_no_relation_sees_nothing() -> None:
    assert view(record(THERE, EVERYONE), None) == hidden("ann")


def test_every_audience_has_a_word_in_the_contract_and_back() -> None:
    for audience in Audience:
        message = privacy_message(PrivacyRow("ann", audience, audience))
        assert (audience_of(message.presence), audience_of(message.last_seen)) == (audience, audience)
    assert audience_of(UNSAID) is None
