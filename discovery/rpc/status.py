"""The one table between domain errors and statuses: what an error is on the wire, and which error a status was.

Nobody else names a status code.
"""

from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from discovery import errors
from discovery.errors import HitherError, Violation

DOMAIN: Final = "hither"
DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a serialised google.rpc.Status."""

TABLE: Final[dict[type[HitherError], tuple[int, int]]] = {
    errors.InvalidArgument: (code_pb2.INVALID_ARGUMENT, 400),
    errors.Unauthenticated: (code_pb2.UNAUTHENTICATED, 401),
    errors.PermissionDenied: (code_pb2.PERMISSION_DENIED, 403),
    errors.NotFound: (code_pb2.NOT_FOUND, 404),
    errors.AlreadyExists: (code_pb2.ALREADY_EXISTS, 409),
    errors.FailedPrecondition: (code_pb2.FAILED_PRECONDITION, 400),
    errors.Aborted: (code_pb2.ABORTED, 409),
    errors.ResourceExhausted: (code_pb2.RESOURCE_EXHAUSTED, 429),
    errors.Unavailable: (code_pb2.UNAVAILABLE, 503),
    errors.DeadlineExceeded: (code_pb2.DEADLINE_EXCEEDED, 504),
    errors.Cancelled: (code_pb2.CANCELLED, 499),
    errors.Unimplemented: (code_pb2.UNIMPLEMENTED, 501),
    errors.Internal: (code_pb2.INTERNAL, 500),
}
"""Error class -> google.rpc.Code and HTTP status. A subclass that is not here counts as its nearest base that is."""

_CLASSES: Final = {code: error for error, (code, _) in TABLE.items()}
_BARE_REASONS: Final = {code_pb2.UNAVAILABLE: "OUTCOME_UNKNOWN", code_pb2.UNIMPLEMENTED: "UNKNOWN_TYPE"}
_GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: HitherError) -> status_pb2.Status:
    """The error as it crosses the wire: exactly one ErrorInfo, and BadRequest or RetryInfo where they fit."""
    status = status_pb2.Status(code=_row(error)[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_status(status: status_pb2.Status) -> HitherError:
    """The error that a status was. One without our ErrorInfo (gRPC's own, or a proxy's) gets its class's usual reason,
    and an unknown code counts as Internal.
    """
    kind = _CLASSES.get(status.code, errors.Internal)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_s = None
    reason = _BARE_REASONS.get(status.code, kind.reason)
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        else:
            detail.Unpack(bad)
    if reason == errors.NotOwner.reason:
        return errors.NotOwner(status.message, revision=_number(info.metadata.get("revision", "")))
    return kind(
        status.message,
        reason=reason,
        retry_after_s=retry_after_s,
        violations=[Violation(violation.field, violation.description) for violation in bad.field_violations],
        metadata=dict(info.metadata),
    )


def from_grpc(error: grpc.aio.AioRpcError) -> HitherError:
    """The error that a failed gRPC call met. What gRPC itself says about it stays out of the message."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return from_status(status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode()))
            except DecodeError:
                break
    return from_status(status_pb2.Status(code=error.code().value[0], message=f"gRPC: {error.code().name}"))


def grpc_code(error: HitherError) -> grpc.StatusCode:
    """The status code of the error, as gRPC's own enum."""
    return _GRPC_CODES[_row(error)[0]]


def http_code(error: HitherError) -> int:
    """The HTTP status that google.rpc.Code maps the error's code to, such as 404."""
    return _row(error)[1]


def code_name(error: HitherError) -> str:
    """The name of the error's google.rpc.Code, such as "NOT_FOUND"."""
    name: str = code_pb2.Code.Name(_row(error)[0])
    return name


def _row(error: HitherError) -> tuple[int, int]:
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return TABLE[errors.Internal]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
