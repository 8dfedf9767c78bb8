"""What a push says: title and body, as far as the user's settings let it show a message. Pure."""

import unicodedata
from typing import Final

MOST_CHARACTERS: Final = 178
"""Of a text that is shown: about four lines on a phone."""
_JOINER = "\u200d"
_VARIATIONS = range(0xFE00, 0xFE10)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_NAMES = {"image": "Photo", "video": "Video", "audio": "Voice message"}


def excerpt(text: str) -> str:
    """The text in one line, or its beginning and an ellipsis: cut between characters as people see them, not within one."""
    text = " ".join(text.split())
    if len(text) <= MOST_CHARACTERS:
        return text
    end = MOST_CHARACTERS - 1
    while end > 0 and (_continues(text[end]) or text[end - 1] == _JOINER):
        end -= 1
    return (text[:end] or text[: MOST_CHARACTERS - 1]).rstrip() + "…"


def name_of_content(media_type: str) -> str:
    """What is said of content that is not text."""
    if media_type == "application/vnd.hither.call+json":
        return "Incoming call"
    if media_type == "application/vnd.hither.live-location+json":
        return "Location"
    return _NAMES.get(media_type.partition("/")[0], "Attachment")


def count_of(messages: int) -> str:
    """How many messages there are, and nothing else."""
    return "New message" if messages == 1 else f"{messages} new messages"


def _continues(character: str) -> bool:
    code = ord(character)
    return unicodedata.combining(character) != 0 or character == _JOINER or code in _VARIATIONS or code in _SKIN_TONES
