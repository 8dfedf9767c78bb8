"""The ids of a push: computed from what it is for, so that a push that is sent again after a crash has the same. Pure."""

import hashlib
import uuid
from base64 import urlsafe_b64encode
from typing import Final

_NAMESPACE: Final = uuid.UUID("6c3f7f0e-1d0b-5d4e-9a51-0c9a3f0f8a7e")


def collapse_id(user_id: str, conversation_id: str, kind: str) -> str:
    """27 characters of A-Z a-z 0-9 - _: on a device a later push of this conversation and kind takes the earlier one's place."""
    digest = hashlib.sha256("\0".join((user_id, conversation_id, kind)).encode()).digest()
    return urlsafe_b64encode(digest[:20]).decode().rstrip("=")


def push_id(user_id: str, device_id: str, conversation_id: str, kind: str, first_seq: int) -> str:
    """A UUID for the push to the device whose first message is `first_seq`. The last is left out on purpose: read again after a
    crash, a push may cover more than it did, and still is the same one.
    """
    return str(uuid.uuid5(_NAMESPACE, "\0".join((user_id, device_id, conversation_id, kind, str(first_seq)))))
