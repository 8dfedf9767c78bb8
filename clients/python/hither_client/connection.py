"""The shell around `state.py`: sockets, tasks and waiting, and the face that the client's user sees. Decides nothing.

One task stays connected: it opens a socket, reads it, and writes what the state says is due; between two connections it waits
as long as the state says. A second one keeps the cursor. Both belong to the client and end with it; if one dies, every call
of the client raises what it died of.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from hither_client.codec import SUBPROTOCOL, Ok, UnreadableFrame, decode_frame
from hither_client.cursor import CursorStore, MemoryCursorStore
from hither_client.errors import (
    ClientClosed,
    InvalidRequest,
    NoAnswer,
    ProtocolFailure,
    RequestFailed,
    TemporarilyUnavailable,
    WrongState,
)
from hither_client.live import LiveRequests
from hither_client.models import (
    Ack,
    Connected,
    Content,
    ConversationsPage,
    Event,
    HistoryPage,
    PresenceChanged,
    Presences,
    PushPlatform,
    place,
)
from hither_client.outbox import Request
from hither_client.places import Advice, Pace, Place, PlaceSource
from hither_client.state import ClientSettings, ClientState, Phase, Reply, expect

TokenSource: TypeAlias = str | Callable[[], Awaitable[str]]
"""An access token, or a function that gets one: it is called before each connection, so that it may renew it."""

_MAX_FRAME_BYTES = 16 * 2**20
_BAD_TOKEN = 4100
_ABNORMAL = 1006
_PROTOCOL_FAILURE = 4102


class EventStream:
    """The events of a client, in order. Asking for the next one says that the last one is done with.

    Only then is the server told, and the cursor kept: what an application was working on when it died comes again.
    """

    def __init__(self, client: "HitherClient") -> None:
        self._client = client

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self._client.next_event()


class HitherClient(LiveRequests):
    """One device of one user, connected for as long as the block lasts, whatever happens to the network.

        async with HitherClient("http://127.0.0.1:8080", token) as client:
            ack = await client.send(to="bob", text="hi")
            async for event in client.events():
                ...

    Entering waits for the first connection, for at most `open_timeout_s`, and raises BadToken, or NoAnswer if there is no server.
    After that the client reconnects by itself, until the server says not to (ConnectionEnded, raised by every later call).
    With several URLs, edges of one cluster, it begins with the first and tries the next one after each connection that ended.

    Reading never stops for a slow application, since answers come on the same socket: events beyond `queue_limit` stay on the
    server and are fetched when there is room. One task at a time may take events; any number may send.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: TokenSource,
        *,
        cursor: CursorStore | None = None,
        settings: ClientSettings | None = None,
        open_timeout_s: float = 30.0,
        proxy: str | Literal[True] | None = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._urls = deque(_socket_url(one) for one in ([url] if isinstance(url, str) else url))
        if not self._urls:
            raise ValueError("a client needs a server's URL")
        self._token = token
        self._cursor = cursor or MemoryCursorStore()
        self._settings = settings or ClientSettings()
        self._open_timeout_s = open_timeout_s
        self._proxy: str | Literal[True] | None = proxy
        self._sleep = sleep
        self._state = ClientState(self._settings)
        self._slots = asyncio.Semaphore(self._settings.unanswered_limit)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._last_id = 0
        self._wake = asyncio.Event()
        self._arrived = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._took = asyncio.Event()
        self._saving = asyncio.Lock()
        self._handed_out = 0
        self._taken = 0
        self._saved = 0
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._failure: Exception | None = None

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects; see the class. May be called once."""
        if self._runner is not None:
            raise ClientClosed("a client opens once")
        self._state = ClientState(self._settings, cursor=await self._cursor.load())
        self._runner = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await self._welcomed.wait()
            self._raise_failure()
        except TimeoutError:
            await self.close()
            raise NoAnswer(f"no connection to {', '.join(self._urls)} within {self._open_timeout_s} s") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Tells the server what was taken, closes the connection and ends all tasks. Open requests raise ClientClosed."""
        if self._runner is None or self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(self._settings.close_timeout_s):
                    await self._keep_cursor()
                    if self._socket is not None:
                        await self._write_due(self._socket)
                        await self._socket.close()
        finally:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
            self._end(ClientClosed("the client was closed"))

    @property
    def connected(self) -> Connected | None:
        """Who the server says we are; None while there is no connection."""
        return self._state.welcome if self._state.phase is Phase.READY else None

    @property
    def cursor(self) -> int:
        """The last place of the inbox that the application is through with; zero: none since the client was opened."""
        return self._taken

    @property
    def unanswered(self) -> int:
        """Requests that wait for an answer."""
        return len(self._waiting)

    # Requests

    async def send(
        self,
        *,
        text: str | None = None,
        content: Content | None = None,
        to: str = "",
        conversation_id: str = "",
        client_id: str = "",
        timeout_s: float = 120.0,
    ) -> Ack:
        """Sends a message to a user (`to`) or into a conversation; returns when it is durable and has its place.

        Repeats it under the same client id, through any number of connections, until it is answered. Messages that are
        addressed alike keep the order of the calls: the next is written when the one before it is answered. Waits for a
        free slot while `unanswered_limit` requests are open. Raises RequestFailed if the server refuses for good, NoAnswer
        after `timeout_s` (calling again with the same `client_id` then finds the outcome), ConnectionEnded, ClientClosed.
        """
        fields: dict[str, object] = {"to": to} if to else {"conversation_id": conversation_id}
        fields["client_id"] = client_id or uuid.uuid4().hex
        if text is not None:
            fields["text"] = text
        if content is not None:
            fields["content"] = {"media_type": content.media_type, "data": content.data}
        reply = await self._request(
            "send_message", fields, lane=f"to {to}" if to else f"in {conversation_id}", timeout_s=timeout_s
        )
        return expect(reply, Ack)

    async def mark_read(self, conversation_id: str, seq: int, *, timeout_s: float = 30.0) -> None:
        """The user has read the conversation up to `seq`."""
        await self._request("mark_read", {"conversation_id": conversation_id, "seq": str(seq)}, timeout_s=timeout_s)

    async def set_presence(
        self, status: Literal["ONLINE", "AWAY"], text: str | None = None, *, timeout_s: float = 30.0
    ) -> None:
        """The device is in use, or in the background; and, if given, what the user says of it (at most 100 characters; empty:
        nothing any more). Holds for the present connection: to be said again after a `Connected`.
        """
        fields: dict[str, object] = {"status": status}
        fields |= {} if text is None else {"text": text}
        await self._request("set_presence", fields, timeout_s=timeout_s)

    async def watch_presence(self, user_ids: Sequence[str], *, timeout_s: float = 30.0) -> Sequence[PresenceChanged]:
        """Narrows the news of presence to these users (at most 200), who need not be friends, and returns how they are; with
        none, news of all friends come. Holds for the present connection: to be said again after a `Connected`.
        """
        reply = await self._request("watch_presence", {"user_ids": list(user_ids)}, timeout_s=timeout_s)
        return expect(reply, Presences).presences

    async def register_push_token(self, platform: PushPlatform, token: str, *, timeout_s: float = 30.0) -> None:
        """Has this device woken up there while it is not connected. `token` is the provider's, of WEB the subscription as JSON; to be
        said again whenever the provider gives another. Raises InvalidRequest or LimitReached.
        """
        await self._request("register_push_token", {"platform": platform, "token": token}, timeout_s=timeout_s)

    async def update_location(self, place: Place, *, radius: float = 0.0, timeout_s: float = 30.0) -> Advice:
        """The device is there; friends are told of to it up to `radius` miles away (zero: 5). Raises InvalidRequest or WrongState
        for what cannot be true, TemporarilyUnavailable (NoAnswer after `timeout_s`) while places cannot be kept.
        """
        fields = place.fields() | ({"radius": radius} if radius else {})
        reply = expect(await self._request("location_update", fields, lane="location", timeout_s=timeout_s), Ok)
        return Advice(reply.next_update_s, reply.min_move_m, reply.shared)

    async def share_location(self, source: PlaceSource, *, radius: float = 0.0) -> None:
        """Tells where the device is, as often as the server asks for it, until the source says None or the task is cancelled.

        A place that the server refuses, or that could not be told in time, is passed over.
        """
        pace = Pace()
        while (place := await source()) is not None:
            if pace.is_due(place, time.monotonic()):
                with contextlib.suppress(InvalidRequest, WrongState, TemporarilyUnavailable, NoAnswer):
                    pace.told(place, await self.update_location(place, radius=radius), time.monotonic())
            await self._sleep(pace.wait_s)

    async def history(
        self,
        conversation_id: str,
        *,
        before_seq: int = 0,
        after_seq: int = 0,
        limit: int = 50,
        page_token: str = "",
        timeout_s: float = 30.0,
    ) -> HistoryPage:
        """A page of a conversation: the newest messages, or those before or after a place; at most 200."""
        fields: dict[str, object] = {"conversation_id": conversation_id, "limit": limit}
        fields |= {"before_seq": str(before_seq)} if before_seq else {}
        fields |= {"after_seq": str(after_seq)} if after_seq else {}
        fields |= {"page_token": page_token} if page_token else {}
        return expect(await self._request("history", fields, timeout_s=timeout_s), HistoryPage)

    async def inbox_conversations(
        self, *, page_size: int = 50, page_token: str = "", timeout_s: float = 30.0
    ) -> ConversationsPage:
        """A page of the user's conversations, the last active first, with what is unread; at most 100."""
        fields: dict[str, object] = {"page_size": page_size}
        fields |= {"page_token": page_token} if page_token else {}
        return expect(await self._request("conversations", fields, timeout_s=timeout_s), ConversationsPage)

    def typing(self, conversation_id: str) -> None:
        """Tells the others that the user is typing. Dropped where there is no connection."""
        self._raise_failure()
        self._state.tell("typing", {"conversation_id": conversation_id})
        self._wake.set()

    async def _request(self, frame_type: str, fields: dict[str, object], *, lane: str = "", timeout_s: float) -> Reply:
        self._raise_failure()
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                self._raise_failure()
                return await self._answer(frame_type, fields, lane)
        except TimeoutError:
            raise NoAnswer(f"no answer to {frame_type} within {timeout_s} s") from None

    async def _answer(self, frame_type: str, fields: dict[str, object], lane: str) -> Reply:
        self._last_id += 1
        request = Request(str(self._last_id), frame_type, fields, lane)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        self._state.add(request)
        self._wake.set()
        try:
            return await future
        finally:
            del self._waiting[request.id]
            self._state.withdraw(request.id)
            self._wake.set()

    # Events

    def events(self) -> EventStream:
        """The events, for ever. Ends by raising: ConnectionEnded, ClientClosed."""
        return EventStream(self)

    async def next_event(self) -> Event:
        """The next event. Says that the one before it is done with; see EventStream."""
        if self._handed_out > self._taken:
            self._taken = self._handed_out
            self._took.set()
        while not len(self._state.queue):
            self._raise_failure()
            self._arrived.clear()
            await self._arrived.wait()
        event = self._state.take_event()
        self._handed_out = max(self._handed_out, place(event))
        self._wake.set()
        return event

    # Tasks

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stay_connected())
                group.create_task(self._keep_cursors())
        except* Exception as errors:  # noqa: BLE001 - whatever it is, every call of the client raises it from now on
            self._end(_first(errors))

    def _end(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._failure)
        self._arrived.set()
        self._welcomed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._runner is None:
            raise ClientClosed("the client is not open")

    async def _keep_cursors(self) -> None:
        while True:
            await self._took.wait()
            self._took.clear()
            await self._keep_cursor()
            self._wake.set()

    async def _keep_cursor(self) -> None:
        async with self._saving:
            taken = self._taken
            if taken > self._saved:
                await self._cursor.save(taken)
                self._saved = taken
                self._state.taken(taken)

    async def _stay_connected(self) -> None:
        while True:
            code, reason = await self._connect_once()
            if self._closed:
                return
            self._urls.rotate(-1)
            delay_s = self._state.lost(code, reason)
            self._arrived.set()
            await asyncio.sleep(delay_s)

    async def _connect_once(self) -> tuple[int, str]:
        """One connection from its opening to its end: the close code and reason, 1006 where there was none."""
        token = self._token if isinstance(self._token, str) else await self._token()
        try:
            async with connect(
                self._urls[0],
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                proxy=self._proxy,
                open_timeout=self._settings.connect_timeout_s,
                close_timeout=self._settings.close_timeout_s,
                ping_interval=None,
                max_size=_MAX_FRAME_BYTES,
            ) as socket:
                return await self._serve(socket, token)
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            return (_BAD_TOKEN if status in {401, 403} else _ABNORMAL), f"HTTP {status}"
        except (OSError, TimeoutError, InvalidHandshake) as error:
            return _ABNORMAL, str(error) or type(error).__name__

    async def _serve(self, socket: ClientConnection, token: str) -> tuple[int, str]:
        if socket.subprotocol != SUBPROTOCOL:
            return _PROTOCOL_FAILURE, f"the server does not speak {SUBPROTOCOL}"
        self._state.opening(token, time.monotonic())
        self._socket = socket
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(socket))
                await self._read(socket)
                writer.cancel()
        finally:
            self._socket = None
        return socket.close_code or _ABNORMAL, socket.close_reason or ""

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                data = await socket.recv(decode=False)
                try:
                    frame = decode_frame(data)
                except UnreadableFrame as error:
                    raise ProtocolFailure(_PROTOCOL_FAILURE, f"the server sent what is no frame: {error}") from error
                self._state.receive(frame, time.monotonic())
                self._settle()

    def _settle(self) -> None:
        """Passes on what the state has made of a frame."""
        if self._state.phase is Phase.READY:
            self._welcomed.set()
        for request_id, answer in self._state.take_answers():
            future = self._waiting.get(request_id)
            if future is None or future.done():
                continue
            if isinstance(answer, RequestFailed):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if len(self._state.queue):
            self._arrived.set()
        self._wake.set()

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while not self._state.why_dead(time.monotonic()):
                try:
                    await self._write_due(socket)
                except TimeoutError:
                    break
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._state.next_wake_s() - time.monotonic()):
                        await self._wake.wait()
            socket.transport.abort()  # a peer that does not answer would not answer a closing handshake either

    async def _write_due(self, socket: ClientConnection) -> None:
        for frame in self._state.outgoing(time.monotonic()):
            async with asyncio.timeout(self._settings.write_timeout_s):
                await socket.send(frame, text=True)


def _socket_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path not in {"", "/"} else "/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Exception) else RuntimeError(repr(first))
