"""Single values between JSON and the contract, strictly: a converter takes what JSON gave and returns what a message
takes, or raises Wrong with the rule in words; its twin goes the other way. Knows no message and no field.
"""

import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from math import copysign
from typing import Final

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

Read = Callable[[object], object]
"""From JSON."""
Write = Callable[[object], object]
"""To JSON."""

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,19})", re.ASCII)
_RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):(\d{2}))", re.ASCII
)
_SECONDS = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_S, _MAX_S = -62_135_596_800, 253_402_300_799
_MAX_FLOAT: Final = 3.4028234663852886e38
_EXACT: Final = 1 << 53
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Wrong(Exception):
    """A value that does not fit its place. `path` grows from the inside out as it is raised through the message."""

    def __init__(self, description: str, reason: str = "MALFORMED_FRAME") -> None:
        super().__init__(description)
        self.description = description
        self.reason = reason
        self.path: list[str | int] = []

    def field(self) -> str:
        """The path of the field, such as "content.data" or "member_ids[2]"."""
        text = ""
        for step in reversed(self.path):
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text


def read_string(value: object) -> str:
    """A string without lone surrogates."""
    if type(value) is not str:
        raise Wrong("must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Wrong("must not hold lone surrogates") from None
    return value


def read_bool(value: object) -> bool:
    """True or false, nothing that is like them."""
    if type(value) is not bool:
        raise Wrong("must be true or false")
    return value


def read_bytes(value: object) -> bytes:
    """Base64, in either alphabet, with or without padding."""
    if type(value) is not str:
        raise Wrong("must be base64 in a string")
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Wrong("must be base64 in a string") from None


def write_bytes(value: object) -> str:
    """Base64 with padding."""
    assert isinstance(value, bytes)  # the field's type says so
    return b64encode(value).decode()


def integer_reader(lowest: int, highest: int) -> Read:
    """Whole numbers in the range. Those of 64 bits may come as a string of digits too."""
    wide = highest > 0xFFFF_FFFF

    def read(value: object) -> int:
        if type(value) is int:
            number = value
        elif wide and type(value) is str and _DECIMAL.fullmatch(value):
            number = int(value)
        else:
            raise Wrong("must be an integer" + (" or a string of digits" if wide else ""))
        if not lowest <= number <= highest:
            raise Wrong(f"must be from {lowest} to {highest}")
        return number

    return read


def _number(value: object) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Wrong("is too large") from None
    if type(value) is str and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    raise Wrong("must be a number")


def read_double(value: object) -> float:
    """A number, or one of "NaN", "Infinity" and "-Infinity"."""
    return _number(value)


def read_float(value: object) -> float:
    """Like `read_double`, within the range of 32 bits."""
    number = _number(value)
    if _MAX_FLOAT < abs(number) < float("inf"):
        raise Wrong("is too large")
    return number


def write_double(value: object) -> object:
    """A number, or the string that stands for one that JSON has no number for."""
    assert isinstance(value, float)  # the field's type says so
    if value - value == 0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def write_float(value: object) -> object:
    """The shortest number that is the same in 32 bits."""
    assert isinstance(value, float)  # the field's type says so
    if value - value != 0:
        return write_double(value)
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        if abs(shorter) <= _MAX_FLOAT and struct.unpack("f", struct.pack("f", shorter))[0] == value:
            return shorter
    return value


def read_timestamp(value: object) -> Timestamp:
    """RFC 3339, years 1 to 9999, up to nanoseconds."""
    match = _RFC_3339.fullmatch(value) if type(value) is str else None
    if match is None:
        raise Wrong("must be an RFC 3339 time in a string")
    day, time, fraction, sign, hours, minutes = match.groups()
    try:
        zone = UTC if sign is None else timezone(int(sign + "1") * timedelta(hours=int(hours), minutes=int(minutes)))
        whole = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=zone) - _EPOCH
    except ValueError:
        raise Wrong("must be an RFC 3339 time in a string") from None
    seconds = whole.days * 86_400 + whole.seconds
    if not _MIN_S <= seconds <= _MAX_S:
        raise Wrong("must be within the years 1 to 9999")
    return Timestamp(seconds=seconds, nanos=int(fraction.ljust(9, "0")) if fraction else 0)


def write_timestamp(value: object) -> str:
    """RFC 3339 in UTC with as many groups of three decimals as it takes."""
    assert isinstance(value, Timestamp)  # the field's type says so
    whole = (_EPOCH + timedelta(seconds=value.seconds)).isoformat()[:19]
    return f"{whole}{_fraction(value.nanos)}Z"


def read_duration(value: object) -> Duration:
    """Seconds with an "s" behind them."""
    match = _SECONDS.fullmatch(value) if type(value) is str else None
    if match is None:
        raise Wrong('must be seconds in a string, such as "1.5s"')
    sign, whole, fraction = match.groups()
    factor = -1 if sign else 1
    seconds = int(whole)
    if seconds > 315_576_000_000:
        raise Wrong("must be at most 10000 years")
    return Duration(seconds=factor * seconds, nanos=factor * int((fraction or "").ljust(9, "0")))


def write_duration(value: object) -> str:
    """Seconds with an "s" behind them."""
    assert isinstance(value, Duration)  # the field's type says so
    sign = "-" if value.seconds < 0 or value.nanos < 0 else ""
    return f"{sign}{abs(value.seconds)}{_fraction(abs(value.nanos))}s"


def _fraction(nanos: int) -> str:
    if not nanos:
        return ""
    digits = f"{nanos:09d}"
    if nanos % 1_000_000 == 0:
        return "." + digits[:3]
    return "." + (digits[:6] if nanos % 1000 == 0 else digits)


def read_any_value(value: object) -> Value:
    """Any JSON value as it is."""
    if value is None:
        return Value(null_value=NULL_VALUE)
    if type(value) is bool:
        return Value(bool_value=value)
    if type(value) is str:
        return Value(string_value=read_string(value))
    if isinstance(value, list):
        return Value(list_value=ListValue(values=map(read_any_value, value)))
    if isinstance(value, Mapping):
        return Value(
            struct_value=Struct(fields={read_string(key): read_any_value(item) for key, item in value.items()})
        )
    return Value(number_value=_number(value))


def write_any_value(value: object) -> object:
    """The JSON value. Whole numbers come out without a decimal point."""
    assert isinstance(value, Value)  # the field's type says so
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [write_any_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return {key: write_any_value(item) for key, item in value.struct_value.fields.items()}
    if kind == "number_value":
        number = value.number_value
        whole = number.is_integer() and abs(number) < _EXACT and (number != 0 or copysign(1.0, number) > 0)
        return int(number) if whole else write_double(number)  # an int has no negative zero
    return None if kind in ("null_value", None) else getattr(value, kind)


def enum_prefix(enum: EnumDescriptor) -> str:
    """What the names of the enum's values begin with and JSON leaves out: its own name in UPPER_SNAKE, or nothing."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return prefix if all(value.name.startswith(prefix) for value in enum.values) else ""


def enum_reader(enum: EnumDescriptor) -> Read:
    """The short name, the full name, or the number of a value."""
    prefix = enum_prefix(enum)
    known = {value.name: value.number for value in enum.values}
    known |= {value.name.removeprefix(prefix): value.number for value in enum.values}

    def read(value: object) -> int:
        if type(value) is str and value in known:
            return known[value]
        if type(value) is int and -(1 << 31) <= value < 1 << 31:
            return value
        raise Wrong(
            "must be one of " + ", ".join(item.name.removeprefix(prefix) for item in enum.values if item.number)
        )

    return read


def enum_writer(enum: EnumDescriptor) -> Write:
    """The short name, or the number of a value that this side does not know."""
    prefix = enum_prefix(enum)
    names: dict[object, object] = {value.number: value.name.removeprefix(prefix) for value in enum.values}

    def write(value: object) -> object:
        return names.get(value, value)

    return write
