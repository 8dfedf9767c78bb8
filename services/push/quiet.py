"""Whether a user wants to hear anything now: muted conversations and quiet hours. Pure."""

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from services.ports.push_store import FOREVER_MS, PushPreferences, PushSettingsRow


def is_muted(preferences: PushPreferences, conversation_id: str, now_ms: int) -> bool:
    """Whether the conversation is muted at this time."""
    until_ms = preferences.mutes.get(conversation_id)
    return until_ms is not None and (until_ms == FOREVER_MS or now_ms < until_ms)


def is_quiet(settings: PushSettingsRow, now_ms: int) -> bool:
    """Whether it is within the user's quiet hours, where the user is. A zone that this machine does not know counts as UTC."""
    begin, end = settings.quiet_from_min, settings.quiet_to_min
    if begin == end:
        return False
    there = datetime.fromtimestamp(now_ms / 1000, _zone(settings.time_zone) or UTC)
    minute = there.hour * 60 + there.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def is_silenced(preferences: PushPreferences, conversation_id: str, now_ms: int) -> bool:
    """Whether a message of the conversation is not to be shown now."""
    return is_muted(preferences, conversation_id, now_ms) or is_quiet(preferences.settings, now_ms)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # no such zone, or a name that is no key at all
        return None
