import ast
import gc
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import discovery.errors as errors
from discovery.errors import HitherError, Violation
from discovery.rpc.status import TABLE, code_name, from_status, grpc_code, http_code, to_status
from hither.mesh.v1.errors_pb2 import Reason

ROOT = Path(__file__).parents[3]
ROOMS = ("discovery", "services", "edge")


def every_error_class(base: type[HitherError] = HitherError) -> set[type[HitherError]]:
    found = set(base.__subclasses__())
    return found.union(*(every_error_class(kind) for kind in found))


def reasons_in_use() -> set[tuple[str, str]]:
    """Every literal that the source gives as a `reason`, as an argument or as an attribute, with where it stands."""
    found = set()
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(parsed(file)):
                if isinstance(node, ast.keyword) and node.arg == "reason" and is_text(node.value):
                    found.add((node.value.value, f"{file.relative_to(ROOT)}:{node.value.lineno}"))  # type: ignore[attr-defined]
                if isinstance(node, ast.ClassDef):
                    found |= {
                        (line.value.value, f"{file.relative_to(ROOT)}:{line.lineno}")  # type: ignore[attr-defined]
                        for line in node.body
                        if isinstance(line, ast.Assign) and is_text(line.value) and named_reason(line)
                    }
    return found


def parsed(file: Path) -> ast.Module:
    # A collection in the middle of parsing may run code of other tests, which Python 3.11's parser does not survive.
    gc.disable()
    try:
        return ast.parse(file.read_text())
    finally:
        gc.enable()


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def named_reason(line: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "reason" for target in line.targets)


def looks_like_a_reason(text: str) -> bool:
    return text.isupper()


DIRECT = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and HitherError in getattr(kind, "__bases__", ())
]


@pytest.mark.parametrize("kind", DIRECT, ids=lambda kind: kind.__name__)
def test_every_error_class_has_its_row(kind: type[HitherError]) -> None:
    assert kind in TABLE


def test_no_two_classes_share_a_code() -> None:
    codes = [code for code, _ in TABLE.values()]

    assert len(set(codes)) == len(codes)


def test_every_code_but_ok_unknown_and_two_that_nothing_raises_has_a_class() -> None:
    unused = {code_pb2.OK, code_pb2.UNKNOWN, code_pb2.OUT_OF_RANGE, code_pb2.DATA_LOSS}

    assert {code for code, _ in TABLE.values()} == set(code_pb2.Code.values()) - unused


@pytest.mark.parametrize("kind", sorted(every_error_class(), key=str))
def test_the_usual_reason_of_a_class_is_in_the_contract(kind: type[HitherError]) -> None:
    assert f"REASON_{kind.reason}" in Reason.keys()  # noqa: SIM118 (an enum wrapper is no dict)


def test_every_reason_in_use_is_in_the_contract() -> None:
    known = set(Reason.keys())
    unknown = {use for use in reasons_in_use() if looks_like_a_reason(use[0]) and f"REASON_{use[0]}" not in known}

    assert not unknown
    assert len(reasons_in_use()) > 20


@pytest.mark.parametrize("kind", DIRECT, ids=lambda kind: kind.__name__)
def test_an_error_crosses_the_wire_and_back(kind: type[HitherError]) -> None:
    sent = kind("why", retry_after_s=1.5, violations=[Violation("a.b", "is wrong")], metadata={"k": "v"})

    got = from_status(status_pb2.Status.FromString(to_status(sent).SerializeToString()))

    assert type(got) is kind
    assert (got.message, got.reason, got.retry_after_s) == ("why", kind.reason, 1.5)
    assert (got.violations, got.metadata) == (sent.violations, {"k": "v"})


def test_not_owner_keeps_its_revision() -> None:
    got = from_status(to_status(errors.NotOwner("elsewhere", revision=42)))

    assert type(got) is errors.NotOwner
    assert got.metadata == {"revision": "42"}


def test_a_status_holds_exactly_one_error_info_of_our_domain() -> None:
    status = to_status(errors.InvalidArgument("no", violations=[Violation("a", "b")], retry_after_s=1))
    info = error_details_pb2.ErrorInfo()

    unpacked = [info.domain for detail in status.details if detail.Unpack(info)]

    assert unpacked == ["hither"]


def test_a_subclass_counts_as_its_base() -> None:
    class Full(errors.FailedPrecondition):
        reason = "CONVERSATION_FULL"

    assert code_name(Full()) == "FAILED_PRECONDITION"
    assert http_code(Full()) == 400
    assert grpc_code(Full()) is grpc.StatusCode.FAILED_PRECONDITION


def test_the_root_itself_counts_as_internal() -> None:
    assert code_name(HitherError()) == "INTERNAL"


def test_a_status_that_is_not_ours_gets_the_usual_reason() -> None:
    assert from_status(status_pb2.Status(code=code_pb2.UNAVAILABLE)).reason == "OUTCOME_UNKNOWN"
    assert from_status(status_pb2.Status(code=code_pb2.UNIMPLEMENTED)).reason == "UNKNOWN_TYPE"
    assert from_status(status_pb2.Status(code=code_pb2.DATA_LOSS)).reason == "BUG"


def test_an_error_info_of_another_domain_is_not_believed() -> None:
    status = status_pb2.Status(code=code_pb2.NOT_FOUND)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="THEIRS", domain="example.com"))

    assert from_status(status).reason == errors.NotFound.reason
