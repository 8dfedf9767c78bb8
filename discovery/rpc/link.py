"""Keeps a stream to a peer open for as long as there is something to say on it, through breaks, pauses and ends.

What is said, and what a break means for it, is the end's business (requesting.py, deliver.py): an end is fed with messages
and asked for messages, and knows no gRPC. The link opens, writes, reads, and opens again:

- A stream that breaks is opened again at once, then with growing, jittered pauses. While a first attempt has failed, the
  peer counts as down: who would like to call it is refused at once instead of waiting for the next attempt.
- If that does not succeed within `resume_s`, or the peer was silent for `silent_ticks` ticks while something was
  awaited from it (a stopped process holds its sockets open), what was open is lost.
- A stream that the peer ended with OK was ended on purpose.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import grpc

from discovery.errors import HitherError, Unavailable
from discovery.rpc.call import Call, Caller, Role
from discovery.rpc.peers import Peers
from discovery.rpc.status import DETAILS_KEY, from_grpc
from discovery.rpc.stream_metrics import StreamNumbers
from discovery.rpc.tracing import new_trace_id

SESSION_KEY: Final = "hither-session"
"""Metadata of a stream that is to be resumable: the id of its session, or NEW_SESSION."""
NEW_SESSION: Final = "new"

_NEVER_S: Final = float("inf")
_JITTER_S: Final = 0.02
_STEADY_S: Final = 1.0
_FLAPPING_PAUSE_S: Final = 0.2

_Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class PeerLost(Unavailable):
    """The peer could not be reached or went silent. NO_OWNER or DRAINING: nothing was done. OUTCOME_UNKNOWN: who knows."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient links are, in seconds unless it says otherwise."""

    open_s: float = 2.0
    """For a stream to open."""
    resume_s: float = 2.0
    """From a break until what was open is given up."""
    tick_s: float = 1.0
    """A peer that was silent for this long is asked whether it lives."""
    silent_ticks: int = 3
    """A peer that was silent for this many ticks is given up."""
    first_pause_s: float = 0.05
    last_pause_s: float = 1.0


class StreamEnd(Protocol):
    """What a link carries. None of it blocks."""

    path: str
    """The method, as "/package.Service/Method"."""

    @property
    def wanted(self) -> bool:
        """There is something to write, or something is awaited."""

    @property
    def busy(self) -> bool:
        """The peer owes something."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of the next stream: which session, and whatever else the peer must know first."""

    def greet(self, message: bytes) -> bool:
        """The first message of a new stream came: the session goes on (True), or is a new one. Raises HitherError."""

    def take(self, message: bytes) -> None:
        """A message came. Raises HitherError if it breaks the rules."""

    @property
    def ready(self) -> bool:
        """What came has made something to write."""

    def give(self) -> bytes | None:
        """What to write next; None: nothing now."""

    def tick(self, *, ping: bool) -> bool:
        """Time has passed; `ping`: the peer is to be asked whether it lives. True: there is something to write now."""

    def unreachable(self, error: PeerLost) -> None:
        """An attempt to open a stream failed: what was never written need not wait for the next."""

    def ended(self) -> None:
        """The peer ended the stream on purpose: what it has not acknowledged was not done."""

    def lost(self, error: HitherError) -> None:
        """The session is over, and nobody knows what became of what was written and not answered. What was never written was
        not done, and fails with the error.
        """


class _Kind(Enum):
    BROKEN = auto()
    MOVED = auto()
    ENDED = auto()
    REFUSED = auto()
    SILENT = auto()


@dataclass(frozen=True, slots=True)
class _Outcome:
    kind: _Kind
    greeted: bool
    lived_s: float = 0.0
    error: HitherError | None = None


class Link:
    """One peer's stream of one kind. Its owner runs `run` in a task for as long as the link is to live."""

    def __init__(self, peers: Peers, address: str, end: StreamEnd, pace: Pace, numbers: StreamNumbers) -> None:
        self._peers = peers
        self._address = address
        self.open = False
        """A stream is open."""
        self._end = end
        self._pace = pace
        self._numbers = numbers
        self._news = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._heard = 0
        self._failures = 0
        self._broken_s: float | None = None
        self._down_until_s = 0.0

    @property
    def down(self) -> bool:
        """The last attempt to open a stream failed, and the next is not due yet."""
        return self._down_until_s > 0 and time.monotonic() < self._down_until_s

    def wake(self) -> None:
        """The end has something to write."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; the stream is cancelled with it."""
        while True:
            self._news.clear()
            if not self._end.wanted:
                await self._news.wait()
                continue
            await self._heed(await self._converse())

    # --- one stream ---

    async def _converse(self) -> _Outcome:
        """Opens a stream and stays until it ends."""
        begun_s, greeted = time.monotonic(), False
        stream: _Stream | None = None
        try:
            stream = self._open()
            async with asyncio.timeout(self._pace.open_s):
                first = await stream.read()
            if not isinstance(first, bytes):
                return _Outcome(_Kind.ENDED, greeted)
            if self._end.greet(first):
                self._numbers.resumes += 1
            greeted = True
            self._down_until_s, self._broken_s = 0.0, None
            self._numbers.open += 1
            self.open = True
            try:
                kind = await self._exchange(stream)
            finally:
                self.open = False
                self._numbers.open -= 1
            return _Outcome(kind, greeted, time.monotonic() - begun_s)
        except TimeoutError:
            return _Outcome(_Kind.BROKEN, greeted)
        except asyncio.CancelledError:
            # gRPC says so too when a channel is closed under a stream.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return _Outcome(_Kind.BROKEN, greeted)
        except grpc.aio.AioRpcError as error:
            kind = _Kind.REFUSED if _was_answered(error) else _Kind.BROKEN
            return _Outcome(kind, greeted, time.monotonic() - begun_s, from_grpc(error))
        except HitherError as error:
            return _Outcome(_Kind.REFUSED, greeted, error=error)
        finally:
            if stream is not None:
                stream.cancel()

    def _open(self) -> _Stream:
        self._channel = self._peers.channel(self._address)
        call = Call("", Caller(Role.SERVICE, service="mesh"), _NEVER_S, new_trace_id())
        metadata = (*self._peers.metadata(call), *self._end.metadata())
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(self._end.path)
        return method(metadata=metadata)

    async def _exchange(self, stream: _Stream) -> _Kind:
        """Reads and writes until the stream ends; says how. Raises what it ended with."""
        reader = asyncio.create_task(self._read(stream), name="link reader")
        writer = asyncio.create_task(self._write(stream), name="link writer")
        watch = asyncio.create_task(self._watch(), name="link watch")
        tasks = (reader, writer, watch)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                return task.result()
        return _Kind.BROKEN

    async def _read(self, stream: _Stream) -> _Kind:
        while isinstance(message := await stream.read(), bytes):
            self._heard += 1
            self._end.take(message)
            if self._end.ready:
                self._news.set()
        return _Kind.ENDED

    async def _write(self, stream: _Stream) -> _Kind:
        while True:
            self._news.clear()
            while (message := self._end.give()) is not None:
                try:
                    await stream.write(message)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    # The stream has ended. Why, and after which last words, is the reader's to find out.
                    await asyncio.Event().wait()
            await self._news.wait()
            if self._peers.channel(self._address) is not self._channel:
                return _Kind.MOVED

    async def _watch(self) -> _Kind:
        # Counts ticks, not time: a pause of this process is no silence of the peer.
        silent = 0
        while silent < self._pace.silent_ticks:
            heard = self._heard
            await asyncio.sleep(self._pace.tick_s)
            silent = silent + 1 if heard == self._heard and self._end.busy else 0
            if self._end.tick(ping=silent > 0):
                self._news.set()
        return _Kind.SILENT

    # --- between streams ---

    async def _heed(self, outcome: _Outcome) -> None:
        """Tells the end what became of the stream, and waits as long as is fit before the next."""
        if outcome.kind is _Kind.MOVED:
            return
        now_s = time.monotonic()
        self._failures = 0 if outcome.lived_s >= _STEADY_S else self._failures + 1
        if self._broken_s is None:
            self._broken_s = now_s
        if outcome.kind is _Kind.REFUSED and outcome.greeted:
            self._tell(outcome, now_s)
        if outcome.kind in (_Kind.BROKEN, _Kind.REFUSED) and outcome.greeted:
            most_s = _FLAPPING_PAUSE_S if self._failures > 1 else _JITTER_S
            await asyncio.sleep(random.uniform(0.0, most_s))  # noqa: S311 (spreads load)
            return
        pause_s = self._pause_s()
        self._down_until_s = now_s + pause_s
        self._tell(outcome, now_s)
        await asyncio.sleep(pause_s)

    def _tell(self, outcome: _Outcome, now_s: float) -> None:
        if outcome.kind is _Kind.REFUSED and outcome.error is not None:
            self._end.lost(outcome.error)
            return
        if outcome.kind is _Kind.SILENT:
            self._end.lost(PeerLost("the peer does not answer", reason="NO_OWNER", retry_after_s=1.0))
            return
        if outcome.kind is _Kind.ENDED:
            self._end.ended()
            return
        error = PeerLost("the peer cannot be reached", reason="NO_OWNER", retry_after_s=1.0)
        if self._broken_s is not None and now_s - self._broken_s >= self._pace.resume_s:
            self._end.lost(error)
        else:
            self._end.unreachable(error)

    def _pause_s(self) -> float:
        exponent = min(self._failures, 16) - 1
        longest_s = min(self._pace.last_pause_s, self._pace.first_pause_s * 2.0**exponent)
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load)


def _was_answered(error: grpc.aio.AioRpcError) -> bool:
    """Whether a server of ours ended the stream with a status, rather than the network."""
    return any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
