import asyncio
import time

import pytest
from google.protobuf.message import Message
from structlog.testing import capture_logs

from discovery.contract import methods
from discovery.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    NotOwner,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
)
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role, find_call
from discovery.rpc.dispatcher import Dispatcher, check_access
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, MESSAGING, SEND, Scripted, new_dispatcher

SERVICE = Caller(Role.SERVICE, service="edge")
ADMIN = Caller(Role.ADMIN, service="ops")


def request() -> pb.SendMessageRequest:
    return pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")


def call(caller: Caller = ALICE, timeout_s: float = 5.0) -> Call:
    return Call(SEND, caller, time.monotonic() + timeout_s, "trace-1")


class Owning:
    """Owns these partitions of everything."""

    partitions = 16
    revision = 7

    def __init__(self, *partitions: int) -> None:
        self._owned = partitions

    def owns(self, _service: str, partition: int) -> bool:
        return partition in self._owned


async def test_a_call_reaches_the_method_and_its_answer_comes_back() -> None:
    servicer = Scripted()

    answer = await new_dispatcher(servicer).dispatch(SEND, request(), call())

    assert answer == pb.SendMessageResponse()
    assert servicer.seen[0][0] == request()


async def test_the_servicer_sees_who_calls_until_when() -> None:
    servicer, the_call = Scripted(), call()

    await new_dispatcher(servicer).dispatch(SEND, request(), the_call)

    assert servicer.seen[0][1] is the_call
    assert find_call() is None


async def test_the_servicer_gets_the_request_filled() -> None:
    servicer = Scripted()

    await new_dispatcher(servicer).dispatch(SEND, pb.SendMessageRequest(to="bob", client_id="1", text="hi"), call())

    assert servicer.seen[0][0].conversation_id.startswith("d.")  # type: ignore[attr-defined]


async def test_a_request_that_breaks_a_rule_never_reaches_the_servicer() -> None:
    servicer = Scripted()

    with pytest.raises(InvalidArgument):
        await new_dispatcher(servicer).dispatch(SEND, pb.SendMessageRequest(), call())

    assert not servicer.seen


async def test_an_unknown_method_is_unimplemented() -> None:
    with pytest.raises(Unimplemented) as refused:
        await new_dispatcher().dispatch(SEND, request(), call())

    assert refused.value.reason == "UNKNOWN_TYPE"


async def test_a_caller_without_credentials_is_told_so() -> None:
    with pytest.raises(Unauthenticated) as refused:
        await new_dispatcher(Scripted()).dispatch(SEND, request(), call(ANONYMOUS))

    assert refused.value.reason == "NO_CREDENTIALS"


async def test_a_caller_of_another_role_is_refused() -> None:
    with pytest.raises(PermissionDenied) as refused:
        await new_dispatcher(Scripted()).dispatch(SEND, request(), call(SERVICE))

    assert refused.value.reason == "ACCESS_DENIED"


async def test_an_admin_may_call_everything() -> None:
    await new_dispatcher(Scripted()).dispatch(SEND, request(), call(ADMIN))


@pytest.mark.parametrize("caller", [ANONYMOUS, ALICE, SERVICE, ADMIN], ids=lambda caller: caller.role.name)
def test_a_public_method_is_open_to_all(caller: Caller) -> None:
    check_access(methods()["/hither.directory.v1.DirectoryService/CreateUser"], caller)


async def test_a_key_that_is_not_owned_is_refused_with_the_revision() -> None:
    servicer = Scripted()
    dispatcher = new_dispatcher(servicer)
    dispatcher.guard(Owning())

    with pytest.raises(NotOwner) as refused:
        await dispatcher.dispatch(SEND, request(), call())

    assert refused.value.metadata == {"revision": "7"}
    assert not servicer.seen


async def test_a_key_that_is_owned_is_served() -> None:
    dispatcher = new_dispatcher(Scripted())
    dispatcher.guard(Owning(*range(16)))

    await dispatcher.dispatch(SEND, request(), call())


async def test_a_servicer_that_was_added_after_the_guard_is_guarded_too() -> None:
    dispatcher = new_dispatcher()
    dispatcher.guard(Owning())
    dispatcher.add(Scripted(), MESSAGING)

    with pytest.raises(NotOwner):
        await dispatcher.dispatch(SEND, request(), call())


async def test_the_deadline_ends_a_slow_method() -> None:
    servicer = Scripted()
    cancelled = asyncio.Event()

    async def hang(_request: Message) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    servicer.behaviour = hang

    with pytest.raises(DeadlineExceeded):
        await new_dispatcher(servicer).dispatch(SEND, request(), call(timeout_s=0.02))

    assert cancelled.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_call_without_time_left_does_not_begin() -> None:
    servicer = Scripted()

    with pytest.raises(DeadlineExceeded):
        await new_dispatcher(servicer).dispatch(SEND, request(), call(timeout_s=0))

    assert not servicer.seen


async def test_cancelling_the_caller_cancels_the_method() -> None:
    servicer = Scripted()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    servicer.behaviour = hang
    task = asyncio.ensure_future(new_dispatcher(servicer).dispatch(SEND, request(), call()))
    await begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cancelled.is_set()


async def test_a_domain_error_comes_through_as_it_is() -> None:
    servicer = Scripted()
    error = NotFound("who?", reason="NO_SUCH_USER")

    async def fail(_request: Message) -> Message:
        raise error

    servicer.behaviour = fail

    with pytest.raises(NotFound) as raised:
        await new_dispatcher(servicer).dispatch(SEND, request(), call())

    assert raised.value is error


async def test_a_bug_says_nothing_but_the_trace_and_is_logged_once() -> None:
    servicer = Scripted()

    async def fail(_request: Message) -> Message:
        raise KeyError("secret")

    servicer.behaviour = fail

    with capture_logs() as lines, pytest.raises(Internal) as raised:
        await new_dispatcher(servicer).dispatch(SEND, request(), call())

    assert raised.value.message == "internal error, trace trace-1"
    assert raised.value.__cause__ is None
    assert [(line["log_level"], line["trace_id"], line["method"]) for line in lines] == [("error", "trace-1", SEND)]
    assert lines[0]["exc_info"]


async def test_a_timeout_inside_the_servicer_is_a_bug_not_a_deadline() -> None:
    servicer = Scripted()

    async def fail(_request: Message) -> Message:
        raise TimeoutError

    servicer.behaviour = fail

    with pytest.raises(Internal):
        await new_dispatcher(servicer).dispatch(SEND, request(), call())


async def test_an_answer_of_another_type_is_a_bug() -> None:
    servicer = Scripted()

    async def answer(_request: Message) -> Message:
        return pb.MarkReadResponse()

    servicer.behaviour = answer

    with pytest.raises(Internal):
        await new_dispatcher(servicer).dispatch(SEND, request(), call())


async def test_beyond_its_bound_a_dispatcher_sheds_and_then_recovers() -> None:
    servicer = Scripted()
    proceed, begun = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await proceed.wait()
        return pb.SendMessageResponse()

    servicer.behaviour = wait
    dispatcher = new_dispatcher(servicer, max_calls=1)
    first = asyncio.ensure_future(dispatcher.dispatch(SEND, request(), call()))
    await begun.wait()
    assert dispatcher.load == 1.0

    with pytest.raises(ResourceExhausted) as shed:
        await dispatcher.dispatch(SEND, request(), call())
    proceed.set()
    await first

    assert (shed.value.reason, shed.value.retry_after_s) == ("OVERLOADED", 1.0)
    await dispatcher.dispatch(SEND, request(), call())


async def test_what_a_served_call_calls_in_turn_is_never_shed() -> None:
    servicer = Scripted()
    dispatcher = new_dispatcher(servicer, max_calls=1)

    async def call_again(_request: Message) -> Message:
        if len(servicer.seen) > 1:
            return pb.SendMessageResponse()
        return await dispatcher.dispatch(SEND, request(), call())

    servicer.behaviour = call_again

    await dispatcher.dispatch(SEND, request(), call())

    assert len(servicer.seen) == 2


async def test_after_an_inner_call_the_outer_one_is_the_current_again() -> None:
    servicer = Scripted()
    dispatcher = new_dispatcher(servicer)
    outer, inner = call(), call()
    currents = []

    async def call_again(_request: Message) -> Message:
        if find_call() is outer:
            await dispatcher.dispatch(SEND, request(), inner)
        currents.append(find_call())
        return pb.SendMessageResponse()

    servicer.behaviour = call_again

    await dispatcher.dispatch(SEND, request(), outer)

    assert currents == [inner, outer]


async def test_calls_are_counted_by_their_code() -> None:
    servicer = Scripted()
    dispatcher = new_dispatcher(servicer)

    await dispatcher.dispatch(SEND, request(), call())
    with pytest.raises(InvalidArgument):
        await dispatcher.dispatch(SEND, pb.SendMessageRequest(), call())

    assert dispatcher.metrics.of(SEND).codes == {"OK": 1, "INVALID_ARGUMENT": 1}
    assert dispatcher.metrics.in_flight == 0


async def test_bytes_that_are_no_request_are_malformed() -> None:
    with pytest.raises(InvalidArgument) as refused:
        await new_dispatcher(Scripted()).dispatch_bytes(SEND, b"\xff\xff", call())

    assert refused.value.reason == "MALFORMED_FRAME"


def test_a_servicer_that_lacks_a_method_is_refused() -> None:
    servicer = Scripted()
    del servicer.MarkRead  # type: ignore[attr-defined]

    with pytest.raises(TypeError, match="MarkRead"):
        new_dispatcher(servicer)


def test_a_servicer_whose_method_is_not_async_is_refused() -> None:
    servicer = Scripted()
    servicer.MarkRead = lambda *_: None  # type: ignore[attr-defined]

    with pytest.raises(TypeError, match="MarkRead"):
        new_dispatcher(servicer)


def test_a_service_is_added_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        new_dispatcher(Scripted(), Scripted())


def test_a_service_that_the_contract_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no such service"):
        Dispatcher().add(object(), "hither.no.v1.NoService")
