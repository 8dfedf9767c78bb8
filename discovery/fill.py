"""The `filled` option: puts what the mesh knows about the caller into the fields that the caller left empty.

The edge fills before it routes, since a routing key may be such a field; the dispatcher fills again, because not every
call comes through an edge. Filling twice changes nothing.
"""

from collections.abc import Callable

from google.protobuf.message import Message

from discovery.errors import PermissionDenied
from discovery.ids import direct_conversation_id
from discovery.rpc.call import Caller, Role
from hither.mesh.v1 import options_pb2

_Value = Callable[[Message, Caller], str]
Filler = Callable[[Message, Caller], None]


def fill(request: Message, caller: Caller) -> None:
    """Fills the empty `filled` fields of the request in place; touches nothing for a caller without a user.

    Raises PermissionDenied (NOT_YOURSELF) if a signed-in user filled one with another value than the mesh would have.
    """
    kind = type(request)
    if kind not in _fillers:
        _fillers[kind] = compile_filler(kind)
    filler = _fillers[kind]
    if filler is not None:
        filler(request, caller)


def compile_filler(request_type: type[Message]) -> Filler | None:
    """The work of `fill` for one type of request; None if the type has no field to fill."""
    rules = [
        (field.name, _VALUES[how])
        for field in request_type.DESCRIPTOR.fields
        if (how := field.GetOptions().Extensions[options_pb2.filled])
    ]
    if not rules:
        return None

    def apply(request: Message, caller: Caller) -> None:
        if not caller.user_id:
            return
        for name, value_for in rules:
            present = getattr(request, name)
            value = value_for(request, caller)
            if present == value or not value:
                continue
            if not present:
                setattr(request, name, value)
            elif caller.role is Role.USER:
                raise PermissionDenied(f"{name} is not the caller's", reason="NOT_YOURSELF")

    return apply


def _caller_user(_request: Message, caller: Caller) -> str:
    return caller.user_id


def _caller_device(_request: Message, caller: Caller) -> str:
    return caller.device_id


def _direct_conversation(request: Message, caller: Caller) -> str:
    to: str = getattr(request, "to")  # noqa: B009 (the type is known only as a message with this field)
    return direct_conversation_id(caller.user_id, to) if to else ""


_VALUES: dict[int, _Value] = {
    options_pb2.FILLED_CALLER_USER: _caller_user,
    options_pb2.FILLED_CALLER_DEVICE: _caller_device,
    options_pb2.FILLED_DIRECT_CONVERSATION: _direct_conversation,
}

_fillers: dict[type[Message], Filler | None] = {}
