"""Routing keys, pure: from a request to the partition that its key lies in.

The path of the contract's `routing_key` is resolved once for each method; what remains at run time is reading the field
and hashing it.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter

from google.protobuf.message import Message

from discovery.contract import MethodSpec
from discovery.errors import InvalidArgument
from discovery.partitions import partition_of

Router = Callable[[Message], int | None]
"""From a request to its partition; None if the key is not filled, so that any instance may answer."""

_Reader = Callable[[Message], Iterable[str]]


def compile_router(spec: MethodSpec, partitions: int) -> Router | None:
    """How requests of the method are routed; None if it has no routing key.

    A router raises InvalidArgument (INVALID_REQUEST) when the values of a repeated key lie in more than one partition.
    Raises TypeError here if the path is not one of strings with at most one repeated field in it.
    """
    if not spec.routing_key:
        return None
    steps = spec.routing_key.split(".")
    repeated = _repeated_step(spec.request_type, steps)
    if repeated is None:
        return _single(attrgetter(spec.routing_key), partitions)
    values: Callable[[Message], Iterable[Message | str]] = attrgetter(".".join(steps[: repeated + 1]))
    rest = steps[repeated + 1 :]
    if not rest:
        return _several(values, spec.routing_key, partitions)  # type: ignore[arg-type] # the items are the strings
    key: Callable[[Message | str], str] = attrgetter(".".join(rest))
    return _several(lambda request: map(key, values(request)), spec.routing_key, partitions)


def _repeated_step(request_type: type[Message], steps: list[str]) -> int | None:
    """The index of the step that is repeated, if one is."""
    repeated = None
    fields = request_type.DESCRIPTOR.fields_by_name
    for index, step in enumerate(steps):
        if step not in fields:
            raise TypeError(f"routing key {'.'.join(steps)}: no field {step}")
        field = fields[step]
        if field.is_repeated and repeated is not None:
            raise TypeError(f"routing key {'.'.join(steps)}: more than one repeated field")
        if field.is_repeated:
            repeated = index
        fields = field.message_type.fields_by_name if field.message_type else {}
        if index == len(steps) - 1 and field.type != field.TYPE_STRING:
            raise TypeError(f"routing key {'.'.join(steps)}: {step} is not a string")
    return repeated


def _single(key: Callable[[Message], str], partitions: int) -> Router:
    def route(request: Message) -> int | None:
        value = key(request)
        return partition_of(value, partitions) if value else None

    return route


def _several(keys: _Reader, path: str, partitions: int) -> Router:
    def route(request: Message) -> int | None:
        found = {partition_of(value, partitions) for value in keys(request)}
        if len(found) > 1:
            raise InvalidArgument(f"the values of {path} lie in {len(found)} partitions; a request takes those of one")
        return found.pop() if found else None

    return route
