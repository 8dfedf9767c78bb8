"""What the stores keep, as the contract says it. The numbers of the enums are the same in both, but for the kinds'."""

from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from hither.push.v1.push_pb2 import PushDelivery, PushFate, PushKind, PushMute, PushPlatform, PushPreview, PushToken
from hither.push.v1.push_pb2 import PushSettings as PushSettingsMessage
from services.ports.push_store import FOREVER_MS, DeliveryRow, PushSettingsRow, PushTokenRow

_KINDS = MappingProxyType(
    {
        "direct": PushKind.PUSH_KIND_DIRECT,
        "group": PushKind.PUSH_KIND_GROUP,
        "mention": PushKind.PUSH_KIND_MENTION,
        "call": PushKind.PUSH_KIND_CALL,
        "sync": PushKind.PUSH_KIND_SYNC,
        "test": PushKind.PUSH_KIND_TEST,
    }
)


def token_message(row: PushTokenRow) -> PushToken:
    """Without the token itself: nobody needs to read it back."""
    return PushToken(
        device_id=row.device_id,
        platform=PushPlatform.ValueType(row.platform),
        update_time=_timestamp(row.updated_ms),
    )


def settings_message(row: PushSettingsRow) -> PushSettingsMessage:
    """How a user wants to be woken up."""
    return PushSettingsMessage(
        preview=PushPreview.ValueType(row.preview),
        quiet_from_min=row.quiet_from_min,
        quiet_to_min=row.quiet_to_min,
        time_zone=row.time_zone,
    )


def mute_message(conversation_id: str, until_ms: int) -> PushMute:
    """A muted conversation."""
    until = None if until_ms == FOREVER_MS else _timestamp(until_ms)
    return PushMute(conversation_id=conversation_id, until=until)


def delivery_message(row: DeliveryRow) -> PushDelivery:
    """What became of a push."""
    return PushDelivery(
        push_id=row.push_id,
        time=_timestamp(row.at_ms),
        fate=PushFate.ValueType(row.fate),
        reason=row.reason,
        kind=_KINDS.get(row.kind, PushKind.PUSH_KIND_UNSPECIFIED),
        conversation_id=row.conversation_id,
        messages=row.messages,
        collapse_id=row.collapse_id,
        attempts=row.attempts,
        latency_ms=row.latency_ms,
    )


def _timestamp(time_ms: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(time_ms)
    return timestamp
