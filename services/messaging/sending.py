"""Sending: from a request to an accepted message in the log, and its answer.

Everything that a projection must not decide is decided here, before the append: the message's id, its time, and who
gets it.
"""

from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from discovery.clock import Clock
from discovery.errors import NotFound, PermissionDenied, ResourceExhausted, Unavailable
from discovery.ids import Snowflakes
from discovery.rpc.tracing import OpenSpan
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2, records_pb2
from services.messaging.admission import Admission
from services.messaging.conversation_projection import MESSAGES
from services.messaging.membership import Memberships
from services.messaging.partition import Partition
from services.messaging.traces import open_append
from services.messaging.waiting import RecentOutcomes
from services.ports.message_store import ConversationStore

FindPartition = Callable[[str], Partition | None]
"""The running partition of a conversation, or None if it does not run here."""


class Sending:
    """Accepts messages for the conversations of the partitions that run here."""

    def __init__(
        self,
        find_partition: FindPartition,
        admission: Admission,
        memberships: Memberships,
        recent: RecentOutcomes,
        store: ConversationStore,
        snowflakes: Snowflakes,
        clock: Clock,
    ) -> None:
        self._find_partition = find_partition
        self._admission = admission
        self._memberships = memberships
        self._recent = recent
        self._store = store
        self._snowflakes = snowflakes
        self._clock = clock

    async def send(
        self, request: messaging_service_pb2.SendMessageRequest, sender_id: str, within_s: float
    ) -> messaging_service_pb2.SendMessageResponse:
        """Accepts the message, or finds what was accepted before under its client id. Errors as in the contract."""
        retry_after_s = self._admission.admit(sender_id, self._clock.monotonic_s())
        if retry_after_s > 0:
            raise ResourceExhausted(
                "More messages than your rate allows.", reason="RATE_LIMITED", retry_after_s=retry_after_s
            )
        key = (request.conversation_id, sender_id, request.client_id)
        repeated = self._recent.find(key)
        if repeated is not None:
            return _response(request.client_id, repeated)
        partition = self._find_partition(request.conversation_id)
        if partition is None:
            raise Unavailable("The conversation is moving.", reason="NO_OWNER", retry_after_s=0.1)
        try:
            members = await self._memberships.members(request.conversation_id, sender_id, request.to)
        except (PermissionDenied, NotFound):
            before = await self._store.find_sent([key])  # sent while it was allowed: the answer stays the same
            if key not in before:
                raise
            return _response(request.client_id, messaging_pb2.Message.FromString(before[key].payload))
        message_id, record, span = self._accept(request, sender_id, members)
        return _response(request.client_id, await partition.send(message_id, record, within_s, span))

    def _accept(
        self, request: messaging_service_pb2.SendMessageRequest, sender_id: str, members: tuple[str, ...]
    ) -> tuple[int, bytes, OpenSpan | None]:
        now_ms = self._clock.now_ms()
        message = messaging_pb2.Message(
            message_id=self._snowflakes.next(),
            conversation_id=request.conversation_id,
            sender_id=sender_id,
            client_id=request.client_id,
            create_time=Timestamp(seconds=now_ms // 1000, nanos=now_ms % 1000 * 1_000_000),
        )
        if request.WhichOneof("body") == "text":
            message.text = request.text
        else:
            message.content.CopyFrom(request.content)
        span, traceparent = open_append(message.message_id, MESSAGES)
        record = records_pb2.AcceptedMessage(message=message, recipient_ids=members, traceparent=traceparent)
        return message.message_id, record.SerializeToString(), span


def _response(client_id: str, message: messaging_pb2.Message) -> messaging_service_pb2.SendMessageResponse:
    return messaging_service_pb2.SendMessageResponse(
        client_id=client_id,
        message_id=message.message_id,
        conversation_id=message.conversation_id,
        seq=message.seq,
        status=messaging_pb2.MESSAGE_STATUS_SENT,
        create_time=message.create_time,
    )
