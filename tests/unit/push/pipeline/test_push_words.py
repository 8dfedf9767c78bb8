"""What a push says, of what kind it is, its ids, and when a user wants to hear nothing."""

import re
from datetime import UTC, datetime

import pytest

from hither.messaging.v1 import messaging_pb2
from services.ports.push_store import FOREVER_MS, PushPreferences, PushSettingsRow
from services.push.arrivals import Kind, kind_of, mentions
from services.push.composing import words
from services.push.identity import collapse_id, push_id
from services.push.limits import Budgets
from services.push.pipeline_settings import PushPolicySettings
from services.push.quiet import is_muted, is_quiet
from services.push.wording import MOST_CHARACTERS, excerpt, name_of_content

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("@ben look", True),
        ("look, @ben.", True),
        ("(@ben)", True),
        ("@all lunch", True),
        ("@benny look", False),
        ("ann@ben.org", False),
        ("ben", False),
        ("@@ben", False),
        ("", False),
    ],
)
def test_a_mention_is_a_word(text: str, mentioned: bool) -> None:
    assert mentions(text, "ben") is mentioned


def test_kinds() -> None:
    call = messaging_pb2.Content(media_type="application/vnd.hither.call+json", data=b"{}")

    assert kind_of(messaging_pb2.Message(conversation_id="d.1", text="@ben"), "ben") is Kind.DIRECT
    assert kind_of(messaging_pb2.Message(conversation_id="g.1", text="@ben"), "ben") is Kind.MENTION
    assert kind_of(messaging_pb2.Message(conversation_id="g.1", text="ben"), "ben") is Kind.GROUP
    assert kind_of(messaging_pb2.Message(conversation_id="g.1", content=call), "ben") is Kind.CALL


@pytest.mark.parametrize(
    ("kind", "group", "text", "messages", "said"),
    [
        (Kind.DIRECT, "", "", 1, ("Ann", "New message")),
        (Kind.DIRECT, "", "hello", 1, ("Ann", "hello")),
        (Kind.DIRECT, "", "", 3, ("Ann", "3 new messages")),
        (Kind.DIRECT, "", "bye", 3, ("Ann", "3 new messages: bye")),
        (Kind.GROUP, "Group G", "", 1, ("Group G", "New message from Ann")),
        (Kind.GROUP, "Group G", "hello", 1, ("Group G", "Ann: hello")),
        (Kind.GROUP, "Group G", "hello", 15, ("Group G", "15 new messages in Group G")),
        (Kind.MENTION, "Group G", "", 1, ("Group G", "You were mentioned by Ann")),
        (Kind.CALL, "", "", 1, ("Ann", "Incoming call")),
        (Kind.CALL, "Group G", "", 1, ("Group G", "Incoming call from Ann")),
    ],
)
def test_words(kind: Kind, group: str, text: str, messages: int, said: tuple[str, str]) -> None:
    assert words(kind, "Ann", group, text, messages) == said


def test_a_push_always_says_something_even_without_names() -> None:
    for kind in (Kind.DIRECT, Kind.GROUP, Kind.MENTION, Kind.CALL):
        assert words(kind, "", "", "", 1)[1]


def test_a_long_text_is_cut_between_characters() -> None:
    text = "a" * (MOST_CHARACTERS - 3) + FAMILY + "b" * 50

    shown = excerpt(text)

    assert shown == "a" * (MOST_CHARACTERS - 3) + "…"
    assert len(excerpt("x" * 500)) == MOST_CHARACTERS
    assert excerpt("two\nlines") == "two lines"
    assert excerpt("e\u0301" * 200).endswith("e\u0301…")


def test_content_that_is_not_text_is_named() -> None:
    assert name_of_content("image/webp") == "Photo"
    assert name_of_content("application/pdf") == "Attachment"


def test_ids_are_the_same_for_the_same_push_and_fit_every_provider() -> None:
    collapse = collapse_id("ben", "g.1", "group")

    assert collapse == collapse_id("ben", "g.1", "group")
    assert re.fullmatch("[A-Za-z0-9_-]{1,32}", collapse)
    assert collapse not in (collapse_id("ben", "g.1", "mention"), collapse_id("ann", "g.1", "group"))
    assert push_id("ben", "phone", "g.1", "group", 5) == push_id("ben", "phone", "g.1", "group", 5)
    assert push_id("ben", "phone", "g.1", "group", 5) != push_id("ben", "pad", "g.1", "group", 5)


def at_ms(hour: int, minute: int = 0) -> int:
    return round(datetime(2026, 7, 1, hour, minute, tzinfo=UTC).timestamp() * 1000)


def test_quiet_hours_are_where_the_user_is_and_may_span_midnight() -> None:
    night = PushSettingsRow("ben", quiet_from_min=22 * 60, quiet_to_min=7 * 60, time_zone="Europe/Berlin")

    assert not is_quiet(night, at_ms(19, 59))
    assert is_quiet(night, at_ms(20))  # 22:00 in Berlin's summer
    assert is_quiet(night, at_ms(4, 59))
    assert not is_quiet(night, at_ms(5))


def test_quiet_hours_within_a_day_no_quiet_hours_and_a_zone_that_nobody_knows() -> None:
    assert is_quiet(PushSettingsRow("ben", quiet_from_min=60, quiet_to_min=120), at_ms(1, 30))
    assert not is_quiet(PushSettingsRow("ben", quiet_from_min=60, quiet_to_min=120), at_ms(2))
    assert not is_quiet(PushSettingsRow("ben", quiet_from_min=60, quiet_to_min=60), at_ms(1))
    assert is_quiet(PushSettingsRow("ben", quiet_from_min=60, quiet_to_min=120, time_zone="../Mars"), at_ms(1))
    assert is_quiet(PushSettingsRow("ben", quiet_from_min=60, quiet_to_min=120, time_zone="Mars/North"), at_ms(1))


def test_a_mute_ends_or_does_not() -> None:
    wishes = PushPreferences(PushSettingsRow("ben"), {"g.1": 1000, "g.2": FOREVER_MS})

    assert is_muted(wishes, "g.1", 999)
    assert not is_muted(wishes, "g.1", 1000)
    assert is_muted(wishes, "g.2", 10**15)
    assert not is_muted(wishes, "g.3", 0)


def test_a_device_has_a_budget_of_alerts_and_one_of_silent_pushes() -> None:
    budgets = Budgets(PushPolicySettings(most_devices=1))

    assert [budgets.take("ben", "phone", 0, silent=True) for _ in range(4)] == [True, True, True, False]
    assert [budgets.take("ben", "phone", 0, silent=False) for _ in range(21)] == [True] * 20 + [False]
    assert not budgets.take("ben", "phone", 1_199_000, silent=True)
    assert budgets.take("ben", "phone", 1_201_000, silent=True)
    assert budgets.take("ben", "pad", 1_201_000, silent=True)
    assert len(budgets) == 2
