"""The app, spoken to as a client does."""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from discovery.contract import MethodSpec
from discovery.errors import AlreadyExists, Cancelled, HitherError, PermissionDenied, Unauthenticated, Unavailable
from discovery.health import HealthReport
from discovery.rpc.call import ANONYMOUS, Caller, Role
from edge.http import build_app
from edge.http_settings import HttpSettings
from hither.directory.v1 import directory_service_pb2
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from tests.support.clock import ManualClock
from tests.support.tracing import parent_of, recording

ANN = Caller(Role.USER, user_id="ann", device_id="phone")
BEARER = {"Authorization": "Bearer ann's"}
SIGN_UP = {"user_id": "ann", "name": "Ann", "password": "long enough"}

Answer = Callable[[Message], Awaitable[Message]]


class FakeMesh:
    """Answers as told; remembers what it was asked, and by whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Message, Caller]] = []
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def authenticate(self, token: str) -> Caller:
        if token != "ann's":
            raise Unauthenticated("the token is not signed by this cluster", reason="BAD_TOKEN")
        return ANN

    async def call(self, spec: MethodSpec, request: Message, caller: Caller) -> Message:
        self.asked.append((spec.name, request, caller))
        if self.error is not None:
            raise self.error
        return await self.answer(request) if self.answer else spec.response_type()


class Edge:
    """An app and a client of it."""

    client: httpx.AsyncClient

    def __init__(self) -> None:
        self.mesh = FakeMesh()
        self.ready = HealthReport({"log": "", "ring": ""})

    async def fails_with(self, status: int, reason: str, method: str, path: str, **request: Any) -> httpx.Response:
        """Asks, and checks that the answer is that error, typed."""
        response = await self.client.request(method, path, **request)
        body = response.json()
        infos = [detail for detail in body["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
        assert (response.status_code, [info["reason"] for info in infos]) == (status, [reason])
        assert body.keys() <= {"code", "message", "details"}
        assert infos[0]["domain"] == "hither"
        return response


@asynccontextmanager
async def an_edge(settings: HttpSettings | None = None, clock: ManualClock | None = None) -> AsyncIterator[Edge]:
    made = Edge()
    app = build_app(made.mesh, settings or HttpSettings(), lambda: made.ready, CollectorRegistry(), clock)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hither.test") as made.client:
        yield made


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with an_edge() as made:
        yield made


async def test_a_signed_in_user_calls_an_operation(edge: Edge) -> None:
    async def send(_request: Message) -> Message:
        return messaging_service_pb2.SendMessageResponse(
            client_id="c1", message_id=1 << 60, conversation_id="g.1", seq=7, status=messaging_pb2.MESSAGE_STATUS_SENT
        )

    edge.mesh.answer = send
    response = await edge.client.post(
        "/api/v1/conversations/g.1/messages", json={"client_id": "c1", "text": "hé"}, headers=BEARER
    )
    assert edge.mesh.asked == [
        ("SendMessage", messaging_service_pb2.SendMessageRequest(conversation_id="g.1", client_id="c1", text="hé"), ANN)
    ]
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "client_id": "c1",
        "message_id": str(1 << 60),
        "conversation_id": "g.1",
        "seq": "7",
        "status": "SENT",
    }


async def test_a_custom_verb_is_served(edge: Edge) -> None:
    await edge.client.post("/api/v1/conversations/g.1:markRead", json={"seq": 3}, headers=BEARER)
    assert edge.mesh.asked[0][:2] == (
        "MarkRead",
        messaging_service_pb2.MarkReadRequest(conversation_id="g.1", seq=3),
    )


async def test_path_and_query_are_decoded_once(edge: Edge) -> None:
    await edge.client.get("/api/v1/users/a%2540b", headers=BEARER)
    await edge.client.get("/api/v1/friends?page_token=a%2Bb%20c", headers=BEARER)
    assert [request for _, request, _ in edge.mesh.asked] == [
        directory_service_pb2.GetUserRequest(user_id="a%40b"),
        directory_service_pb2.ListFriendsRequest(page_token="a+b c"),
    ]


async def test_signing_up_needs_no_token(edge: Edge) -> None:
    response = await edge.client.post("/api/v1/users", json=SIGN_UP)
    assert (response.status_code, edge.mesh.asked[0][2]) == (200, ANONYMOUS)


async def test_a_public_operation_ignores_a_token_that_has_run_out(edge: Edge) -> None:
    response = await edge.client.post(
        "/api/v1/sessions:refresh", json={"refresh_token": "r"}, headers={"Authorization": "Bearer old"}
    )
    assert (response.status_code, edge.mesh.asked[0][2]) == (200, ANONYMOUS)


async def test_without_a_token_nothing_is_asked(edge: Edge) -> None:
    response = await edge.fails_with(401, "NO_CREDENTIALS", "GET", "/api/v1/friends")
    assert response.headers["www-authenticate"] == "Bearer"
    assert edge.mesh.asked == []


async def test_a_token_in_the_query_does_not_count(edge: Edge) -> None:
    await edge.fails_with(401, "NO_CREDENTIALS", "GET", "/api/v1/friends?token=ann%27s")


@pytest.mark.parametrize("header", ["Bearer other", "Basic ann's", "ann's", "Bearer ", ""])
async def test_a_bad_token_is_refused(edge: Edge, header: str) -> None:
    await edge.fails_with(401, "BAD_TOKEN", "GET", "/api/v1/friends", headers={"Authorization": header})


async def test_an_unknown_path_is_typed(edge: Edge) -> None:
    await edge.fails_with(404, "NO_SUCH_ROUTE", "GET", "/api/v1/nothing")
    await edge.fails_with(404, "NO_SUCH_ROUTE", "GET", "/")


async def test_another_method_is_told_what_there_is(edge: Edge) -> None:
    response = await edge.fails_with(405, "UNKNOWN_TYPE", "DELETE", "/api/v1/users")
    assert response.headers["allow"] == "POST"


async def test_another_method_on_a_fixed_path_is_typed_too(edge: Edge) -> None:
    response = await edge.fails_with(405, "UNKNOWN_TYPE", "POST", "/healthz")
    assert response.headers["allow"] == "GET, HEAD"


async def test_head_answers_as_get_without_the_body(edge: Edge) -> None:
    got = await edge.client.get("/api/v1/friends", headers=BEARER)
    response = await edge.client.head("/api/v1/friends", headers=BEARER)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"friend_id": "\xff"}',
        b"{'friend_id': 'bob'}",
        b'{"friend_id": NaN}',
        b"[" * 100_000,
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(edge: Edge, body: bytes) -> None:
    await edge.fails_with(400, "MALFORMED_FRAME", "POST", "/api/v1/friends", content=body, headers=BEARER)
    assert edge.mesh.asked == []


async def test_a_wrong_type_names_its_field(edge: Edge) -> None:
    response = await edge.fails_with(
        400, "MALFORMED_FRAME", "POST", "/api/v1/friends", json={"friend_id": 7}, headers=BEARER
    )
    assert response.json()["details"][1]["field_violations"][0]["field"] == "friend_id"


async def test_an_unknown_field_is_refused(edge: Edge) -> None:
    await edge.fails_with(400, "UNKNOWN_FIELD", "POST", "/api/v1/friends", json={"friend": "bob"}, headers=BEARER)


@pytest.mark.parametrize("query", ["state=%FF", "&".join(f"a{n}=1" for n in range(300))])
async def test_a_query_that_cannot_be_decoded_is_refused(edge: Edge, query: str) -> None:
    await edge.fails_with(400, "MALFORMED_FRAME", "GET", f"/api/v1/friends?{query}", headers=BEARER)


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async with an_edge(HttpSettings(body_bytes=100)) as edge:
        response = await edge.fails_with(
            413, "INVALID_REQUEST", "POST", "/api/v1/friends", content=b"x" * 101, headers=BEARER
        )
        assert response.headers["connection"] == "close"


async def test_a_body_that_grows_too_large_is_cut_off() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 60

    async with an_edge(HttpSettings(body_bytes=100)) as edge:
        await edge.fails_with(413, "INVALID_REQUEST", "POST", "/api/v1/friends", content=endless(), headers=BEARER)


async def test_a_body_of_the_largest_size_is_taken() -> None:
    body = b'{"friend_id":"bob"}'
    async with an_edge(HttpSettings(body_bytes=len(body))) as edge:
        response = await edge.client.post("/api/v1/friends", content=body, headers=BEARER)
        assert response.status_code == 200


async def test_a_body_that_never_ends_meets_the_deadline() -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with an_edge(HttpSettings(request_timeout_s=0.02)) as edge:
        await edge.fails_with(504, "DEADLINE", "POST", "/api/v1/friends", content=silent(), headers=BEARER)


async def test_a_call_that_never_ends_meets_the_deadline() -> None:
    async def never(_request: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async with an_edge(HttpSettings(request_timeout_s=0.02)) as edge:
        edge.mesh.answer = never
        await edge.fails_with(504, "DEADLINE", "GET", "/api/v1/friends", headers=BEARER)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AlreadyExists("taken"), 409),
        (PermissionDenied("no", reason="NOT_A_MEMBER"), 403),
        (Cancelled("gone"), 499),
    ],
)
async def test_an_error_of_the_mesh_keeps_its_code(edge: Edge, error: HitherError, status: int) -> None:
    edge.mesh.error = error
    await edge.fails_with(status, error.reason, "GET", "/api/v1/friends", headers=BEARER)


async def test_when_to_come_back_is_said_twice(edge: Edge) -> None:
    edge.mesh.error = Unavailable("the log is away", retry_after_s=1.2)
    response = await edge.fails_with(503, "ENGINE_DOWN", "GET", "/api/v1/friends", headers=BEARER)
    assert response.headers["retry-after"] == "2"
    assert response.json()["details"][1] == {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retry_delay": "1.200s",
    }


async def test_a_bug_says_nothing_of_the_inside(edge: Edge) -> None:
    edge.mesh.error = RuntimeError("secret path /var/lib")
    response = await edge.fails_with(500, "BUG", "GET", "/api/v1/friends", headers=BEARER)
    assert "secret" not in response.text


async def test_sign_ups_from_one_address_are_limited() -> None:
    clock = ManualClock()
    async with an_edge(HttpSettings(public_rate_per_s=0.1, public_burst=2), clock) as edge:
        for _ in range(2):
            assert (await edge.client.post("/api/v1/users", json=SIGN_UP)).status_code == 200
        response = await edge.fails_with(429, "RATE_LIMITED", "POST", "/api/v1/users", json=SIGN_UP)
        assert response.headers["retry-after"] == "10"
        assert (await edge.client.get("/api/v1/friends", headers=BEARER)).status_code == 200
        clock.advance(10.0)
        assert (await edge.client.post("/api/v1/users", json=SIGN_UP)).status_code == 200


async def test_a_process_that_is_alive_says_so(edge: Edge) -> None:
    assert (await edge.client.get("/healthz")).json() == {"status": "alive"}


async def test_a_process_is_ready_when_all_of_it_is(edge: Edge) -> None:
    response = await edge.client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    edge.ready = HealthReport({"log": "its projection stopped", "ring": ""})
    response = await edge.client.get("/readyz")
    assert (response.status_code, response.json()["parts"]) == (503, {"log": "its projection stopped", "ring": "ready"})


async def test_requests_are_counted_by_operation(edge: Edge) -> None:
    await edge.client.get("/api/v1/friends", headers=BEARER)
    await edge.client.get("/api/v1/nothing-like-this")
    text = (await edge.client.get("/metrics")).text
    assert 'hither_http_requests_total{operation="ListFriends",status="200"} 1.0' in text
    assert 'hither_http_requests_total{operation="none",status="404"} 1.0' in text
    assert "nothing-like-this" not in text


@pytest.mark.parametrize(("path", "version"), [("openapi", "3.1.0"), ("asyncapi", "3.0.0")])
async def test_the_documents_are_served(edge: Edge, path: str, version: str) -> None:
    response = await edge.client.get(f"/api/v1/{path}.json")
    assert (response.status_code, response.json()[path]) == (200, version)


async def test_the_page_runs_only_what_stands_in_it(edge: Edge) -> None:
    response = await edge.client.get("/docs")
    policy = response.headers["content-security-policy"]
    for tag in ("style", "script"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r'(src|href)="(https?:)?//', response.text)


async def test_every_link_of_the_page_leads_somewhere(edge: Edge) -> None:
    text = (await edge.client.get("/docs")).text.partition("<script>")[0]
    anchors = re.findall(r' id="([^"]+)"', text)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(anchors)


async def test_no_other_origin_may_call_unless_it_was_let_in(edge: Edge) -> None:
    response = await edge.client.get("/healthz", headers={"Origin": "https://elsewhere.test"})
    assert "access-control-allow-origin" not in response.headers


async def test_an_origin_that_was_let_in_may_call() -> None:
    async with an_edge(HttpSettings(allowed_origins="https://app.test https://beta.test")) as edge:
        preflight = await edge.client.options(
            "/api/v1/friends",
            headers={
                "Origin": "https://app.test",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization",
            },
        )
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://app.test")
        other = await edge.client.get("/healthz", headers={"Origin": "https://elsewhere.test"})
        assert "access-control-allow-origin" not in other.headers


async def test_answers_are_not_kept_by_anyone(edge: Edge) -> None:
    response = await edge.client.get("/api/v1/friends", headers=BEARER)
    assert (response.headers["cache-control"], response.headers["x-content-type-options"]) == ("no-store", "nosniff")


async def test_a_request_that_comes_with_a_sampled_trace_is_a_span_in_it(edge: Edge) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {**BEARER, "traceparent": f"00-{trace}-{parent}-01"}

    with recording(ratio=0.0) as recorded:
        await edge.client.get("/api/v1/conversations/g.1/messages", headers=headers)
        await edge.client.get("/api/v1/friends", headers=BEARER)

    [span] = recorded.spans
    assert (span.name, parent_of(span)) == ("GET /api/v1/conversations/{conversation_id}/messages", parent)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/conversations/{conversation_id}/messages",
        "http.response.status_code": 200,
    }


async def test_a_bug_is_told_under_the_trace_of_the_request(edge: Edge) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    edge.mesh.error = RuntimeError("a bug")

    with recording(ratio=0.0) as recorded:
        response = await edge.client.get(
            "/api/v1/friends", headers={**BEARER, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        )

    assert trace in response.json()["message"]
    [span] = recorded.spans
    assert (span.status.status_code, (span.attributes or {})["http.response.status_code"]) == (StatusCode.ERROR, 500)
