"""Every operation refuses what its rules forbid and whom its access shuts out, and keeps its deadline.

Generated from the descriptors: a new RPC is tested here without a line being written.
"""

import asyncio

import pytest
from google.protobuf.message import Message

from discovery.contract import MethodSpec, methods
from discovery.errors import DeadlineExceeded, InvalidArgument, PermissionDenied, Unauthenticated
from discovery.rpc.call import Caller, Role
from discovery.rpc.validation import validate
from hither.mesh.v1 import options_pb2
from tests.support.dispatching import Served
from tests.support.violations import Violation, a_valid, violations_of

UNARY = [spec for spec in methods().values() if not spec.streaming]
BROKEN = [(spec, violation) for spec in UNARY for violation in violations_of(spec.request_type)]

CALLERS = {
    Role.ANONYMOUS: Caller(Role.ANONYMOUS),
    Role.USER: Caller(Role.USER, user_id="ann", device_id="ann"),
    Role.SERVICE: Caller(Role.SERVICE, service="test"),
    Role.ADMIN: Caller(Role.ADMIN),
}
OPEN_TO: dict[int, set[Role]] = {
    options_pb2.ACCESS_PUBLIC: set(Role),
    options_pb2.ACCESS_USER: {Role.USER, Role.ADMIN},
    options_pb2.ACCESS_SERVICE: {Role.SERVICE, Role.ADMIN},
    options_pb2.ACCESS_ADMIN: {Role.ADMIN},
}


def someone_who_may(spec: MethodSpec) -> Caller:
    return CALLERS[Role.USER] if Role.USER in OPEN_TO[spec.access] else CALLERS[Role.ADMIN]


def each_unary(spec: MethodSpec) -> str:
    return spec.name


def each_violation(value: MethodSpec | Violation) -> str:
    return value.name if isinstance(value, MethodSpec) else value.rule


@pytest.fixture(scope="module")
def served() -> Served:
    return Served()


@pytest.mark.parametrize("spec", UNARY, ids=each_unary)
async def test_a_valid_request_reaches_its_servicer(served: Served, spec: MethodSpec) -> None:
    served.reached.clear()
    await served.call(spec, a_valid(spec.request_type), someone_who_may(spec))
    assert served.reached == [spec.path]


@pytest.mark.parametrize(("spec", "violation"), BROKEN, ids=each_violation)
async def test_a_request_that_breaks_a_rule_is_refused(served: Served, spec: MethodSpec, violation: Violation) -> None:
    served.reached.clear()
    with pytest.raises(InvalidArgument) as caught:
        await served.call(spec, copy_of(violation.request), CALLERS[Role.ADMIN])
    assert caught.value.reason == "INVALID_REQUEST"
    assert any(each.field.startswith(violation.field) for each in caught.value.violations)
    assert served.reached == []


@pytest.mark.parametrize(("spec", "violation"), BROKEN, ids=each_violation)
def test_the_rules_alone_forbid_it(spec: MethodSpec, violation: Violation) -> None:
    with pytest.raises(InvalidArgument):
        validate(violation.request)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
@pytest.mark.parametrize("spec", UNARY, ids=each_unary)
async def test_only_those_are_let_in_whom_the_access_names(served: Served, spec: MethodSpec, role: Role) -> None:
    served.reached.clear()
    refusal = await refusal_of(served, spec, CALLERS[role])
    if role in OPEN_TO[spec.access]:
        assert (refusal, served.reached) == (None, [spec.path])
    else:
        expected = "NO_CREDENTIALS" if role is Role.ANONYMOUS else "ACCESS_DENIED"
        assert (refusal, served.reached) == (expected, [])


@pytest.mark.parametrize("spec", UNARY, ids=each_unary)
async def test_a_servicer_that_never_answers_ends_with_the_deadline(spec: MethodSpec) -> None:
    async def never(_spec: MethodSpec, _request: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    silent = Served(never)
    with pytest.raises(DeadlineExceeded):
        await silent.call(spec, a_valid(spec.request_type), someone_who_may(spec), timeout_s=0.01)
    assert silent.reached == [spec.path]


def copy_of(request: Message) -> Message:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


async def refusal_of(served: Served, spec: MethodSpec, caller: Caller) -> str | None:
    try:
        await served.call(spec, a_valid(spec.request_type), caller)
    except (Unauthenticated, PermissionDenied) as error:
        return error.reason
    return None
