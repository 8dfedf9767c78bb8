"""The contract's validation rules, checked where a request enters the mesh."""

from typing import Final

from google.protobuf.message import Message
from protovalidate import EvaluationError, Validator
from protovalidate import Violation as BrokenRule

from discovery.errors import InvalidArgument, Violation

_validator: Final = Validator()


def validate(message: Message) -> None:
    """Checks the buf.validate rules of the message. Raises InvalidArgument (INVALID_REQUEST) that names every field
    that breaks one.
    """
    try:
        broken = _validator.collect_violations(message)
    except EvaluationError as error:
        raise InvalidArgument("a rule could not be evaluated for this request") from error
    if broken:
        violations = [_violation(rule) for rule in broken]
        raise InvalidArgument(
            "; ".join(f"{each.field or 'request'}: {each.description}" for each in violations), violations=violations
        )


def _violation(rule: BrokenRule) -> Violation:
    proto = rule.proto
    steps = proto.field.elements if proto.field else ()
    path = ""
    for step in steps:
        path += f".{step.field_name}" if path else step.field_name
        if step.subscript is not None:
            path += f"[{step.subscript.value!r}]"
    return Violation(path, proto.message or proto.rule_id)
