"""The ASGI app beside the WebSocket: REST, the documents and page that describe it, health and metrics.

A shell: it moves bytes, keeps time and counts; what a request means is decided in edge/rest.py.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import structlog
from opentelemetry.trace import SpanKind
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from discovery.clock import Clock, SystemClock
from discovery.contract import contract_files, methods
from discovery.errors import Cancelled, DeadlineExceeded, HitherError, Internal
from discovery.health import HealthReport
from discovery.rpc.tracing import OpenSpan, open_span, received_trace, surround
from edge.addresses import AddressLimiter
from edge.asyncapi import asyncapi_document
from edge.codec.json import to_json
from edge.comments import Comments
from edge.http_settings import HttpSettings
from edge.openapi import openapi_document
from edge.pages import docs_page
from edge.rest import Admitted, Answer, BodyTooLarge, Calls, Rest, failed
from edge.transcoding import MethodNotAllowed, RouteTable

log = structlog.get_logger(__name__)

_JSON = "application/json"
_UNROUTED = "none"
_READING = ("GET", "HEAD")


class Health(Protocol):
    """Tells how this process is."""

    def __call__(self) -> HealthReport:
        """At once, from what is known: it must not wait."""


def build_app(
    calls: Calls, settings: HttpSettings, health: Health, registry: CollectorRegistry, clock: Clock | None = None
) -> Starlette:
    """The app for everything on the public port that is no WebSocket.

    Raises BadRule if the contract has a route that cannot be served. `registry` gets the HTTP metrics and is what
    /metrics shows; apps of one registry are counted together.
    """
    table = RouteTable(methods().values())
    comments = Comments(contract_files())
    limiter = AddressLimiter(
        settings.public_rate_per_s, settings.public_burst, settings.public_addresses, clock or SystemClock()
    )
    endpoint = _RestEndpoint(Rest(calls, table, limiter), settings, _metrics_in(registry))
    return Starlette(
        routes=[
            Route("/healthz", _fixed(b'{"status":"alive"}', _JSON)),
            Route("/readyz", _readiness(health)),
            Route("/metrics", _metrics(registry)),
            *_documents(table, comments),
            Route("/{path:path}", endpoint),
        ],
        middleware=_cross_origin(settings.allowed_origins.split()),
    )


def _documents(table: RouteTable, comments: Comments) -> list[Route]:
    openapi = openapi_document(table, comments)
    asyncapi = asyncapi_document(methods().values(), comments)
    page = docs_page(openapi, asyncapi)
    return [
        Route("/api/v1/openapi.json", _fixed(to_json(openapi), _JSON)),
        Route("/api/v1/asyncapi.json", _fixed(to_json(asyncapi), _JSON)),
        Route("/docs", _fixed(page.html, "text/html; charset=utf-8", page.headers)),
    ]


def _cross_origin(origins: list[str]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "Allow", "WWW-Authenticate"],
            max_age=600,
        )
    ]


class _Metrics:
    """Counts requests by operation (a bounded set) and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "hither_http_requests", "REST requests answered.", ("operation", "status"), registry=registry
        )
        self._seconds = Histogram(
            "hither_http_request_seconds",
            "From a REST request's head to its answer.",
            ("operation",),
            registry=registry,
        )

    def answered(self, operation: str, status: int, took_s: float) -> None:
        """One request was answered."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(took_s)


_known: Final[WeakKeyDictionary[CollectorRegistry, _Metrics]] = WeakKeyDictionary()


def _metrics_in(registry: CollectorRegistry) -> _Metrics:
    """The registry's: it takes metrics of a name once, and an app may come after another."""
    if registry not in _known:
        _known[registry] = _Metrics(registry)
    return _known[registry]


class _RestEndpoint:
    """Reads a request within its limits and its time, and writes the answer."""

    def __init__(self, rest: Rest, settings: HttpSettings, metrics: _Metrics) -> None:
        self._rest = rest
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        began_s = time.monotonic()
        request = Request(scope, receive)
        operation = _UNROUTED
        place = received_trace(request.headers.get("traceparent"))
        span = open_span(request.method, SpanKind.SERVER, place, {"http.request.method": request.method})
        surround(place if span is None else span.trace)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                admitted = self._admit(request)
                operation = admitted.operation
                if span is not None:
                    _name(span, admitted)
                body = await self._body(request)
                answer = await self._rest.perform(admitted, request.scope["query_string"], body)
        except TimeoutError:
            answer = failed(DeadlineExceeded("the request took too long"))
        except ClientDisconnect:
            answer = failed(Cancelled("the client went away"))
        except HitherError as error:
            answer = failed(error)
        except Exception:  # noqa: BLE001 - the last line of defence: a bug must not reach the wire as it is
            answer = _bug(operation, place.trace_id)
        self._metrics.answered(operation, answer.status, time.monotonic() - began_s)
        if span is not None:
            _end(span, answer.status)
        await _response(answer)(scope, receive, send)

    def _admit(self, request: Request) -> Admitted:
        raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        address = request.client.host if request.client else ""
        return self._rest.admit(
            request.method,
            raw_path.partition(b"?")[0].decode("latin-1"),
            request.headers.get("authorization"),
            address,
        )

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise BodyTooLarge(limit)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise BodyTooLarge(limit)
        return bytes(body)


def _name(span: OpenSpan, admitted: Admitted) -> None:
    route = admitted.match.route
    span.rename(f"{route.http_method} {route.template}")
    span.note("http.route", route.template)


def _end(span: OpenSpan, status: int) -> None:
    span.note("http.response.status_code", status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(status))
    span.end()


def _bug(operation: str, trace_id: str) -> Answer:
    log.exception("rest_bug", operation=operation, trace_id=trace_id)
    return failed(Internal(f"internal error, trace {trace_id}"))


def _response(answer: Answer) -> Response:
    """For HEAD too: the server leaves the body away, as HTTP has it."""
    return Response(answer.body, answer.status, answer.headers)


class _Page:
    """What a fixed path shows to who reads it."""

    def __init__(self, show: Callable[[], Answer]) -> None:
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        method: str = scope["method"]
        answer = self._show() if method in _READING else failed(MethodNotAllowed(_READING))
        await _response(answer)(scope, receive, send)


def _fixed(body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> _Page:
    shown = Answer(
        200,
        body,
        {
            "Content-Type": media_type,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        },
    )
    return _Page(lambda: shown)


def _readiness(health: Health) -> _Page:
    def show() -> Answer:
        report = health()
        headers = {"Content-Type": _JSON, "Cache-Control": "no-store"}
        return Answer(report.status, to_json(report.shown()), headers)

    return _Page(show)


def _metrics(registry: CollectorRegistry) -> _Page:
    return _Page(lambda: Answer(200, generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}))
