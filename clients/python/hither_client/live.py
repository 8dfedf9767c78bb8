"""Sharing where one is, live, as its user holds it in hand: every call is one frame of the contract."""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from hither_client.models import LiveLocations, LiveLocationStarted, LiveLocationView
from hither_client.state import ClientState, Reply, expect


class Asks(Protocol):
    """Makes a request and waits for its answer."""

    async def __call__(
        self,
        frame_type: str,
        fields: dict[str, object],
        *,
        lane: str = "",
        timeout_s: float,
    ) -> object:
        """Raises RequestFailed and NoAnswer."""


class Starts(Protocol):
    """Makes a request that is answered with a session."""

    async def __call__(
        self,
        frame_type: str,
        fields: dict[str, object],
        *,
        timeout_s: float,
    ) -> LiveLocationStarted:
        """Raises RequestFailed and NoAnswer."""


class SharedLocation:
    """A live location that this user shares; it goes on whatever happens to the connection, until it is stopped or runs out.

    Places go one at a time and in order. Each call raises RequestFailed: WrongState (LIVE_LOCATION_ENDED) once it has ended,
    NotAMember, and NoAnswer where the server could not be reached in time; then the next place is the one to send.
    """

    def __init__(self, session: LiveLocationStarted, ask: Asks, start: Starts) -> None:
        self._session = session
        self._ask = ask
        self._start = start

    @property
    def session_id(self) -> str:
        """The session, also for another device of this user."""
        return self._session.session_id

    @property
    def expires_at(self) -> datetime:
        """When it ends by itself, as far as is known."""
        return self._session.expires_at

    async def update(self, lat: float, lng: float, *, timeout_s: float = 10.0) -> None:
        """The user is here: degrees north and east."""
        await self._update({"lat": lat, "lng": lng}, timeout_s)

    async def update_sealed(self, ciphertext: bytes, *, timeout_s: float = 10.0) -> None:
        """The same of an opaque live location: 1 byte to 1 KiB that only who watches can read."""
        await self._update({"ciphertext": ciphertext}, timeout_s)

    async def renew(self, duration_s: int, *, timeout_s: float = 30.0) -> datetime:
        """Goes on for at least so long from now; returns when it ends by itself."""
        fields: dict[str, object] = {"session_id": self.session_id, "duration_s": duration_s}
        self._session = await self._start("renew_live_location", fields, timeout_s=timeout_s)
        return self.expires_at

    async def stop(self, *, timeout_s: float = 30.0) -> None:
        """Ends it, for everybody. May be repeated."""
        await self._ask("stop_live_location", {"session_id": self.session_id}, lane=self._lane, timeout_s=timeout_s)

    async def _update(self, place: dict[str, object], timeout_s: float) -> None:
        fields = {"session_id": self.session_id, **place}
        await self._ask("live_location_update", fields, lane=self._lane, timeout_s=timeout_s)

    @property
    def _lane(self) -> str:
        return f"live {self.session_id}"


class LiveRequests(ABC):
    """What HitherClient can do about live locations."""

    _state: ClientState
    _wake: asyncio.Event

    @abstractmethod
    async def _request(self, frame_type: str, fields: dict[str, object], *, lane: str = "", timeout_s: float) -> Reply:
        """Makes a request and waits for its answer."""

    async def start_live_location(
        self, conversation_id: str, duration_s: int, *, opaque: bool = False, timeout_s: float = 30.0
    ) -> SharedLocation:
        """Starts to share where the user is, for so long (at most 24 h). `opaque`: as ciphertexts only. What the user shared
        there before ends.
        """
        fields: dict[str, object] = {"conversation_id": conversation_id, "duration_s": duration_s, "opaque": opaque}
        fields["request_id"] = uuid.uuid4().hex
        started = await self._start("start_live_location", fields, timeout_s=timeout_s)
        return SharedLocation(started, self._request, self._start)

    def shared_location(self, session_id: str, expires_at: datetime) -> SharedLocation:
        """A live location that was started before: by another device, or before the application died."""
        return SharedLocation(LiveLocationStarted(session_id, expires_at), self._request, self._start)

    async def watch_live_location(self, conversation_id: str, *, timeout_s: float = 30.0) -> Sequence[LiveLocationView]:
        """Watches what is shared in the conversation; returns what there is to see. What follows comes as events:
        LiveLocationMoved, LiveLocationStale, LiveLocationEnded; and LiveLocations, since the client asks again after each
        reconnection and every minute, until `unwatch_live_location` or until the user is a member no longer (ServerError).
        """
        reply = await self._request("watch_live_location", {"conversation_id": conversation_id}, timeout_s=timeout_s)
        self._state.watches.add(conversation_id, time.monotonic())
        self._wake.set()
        return expect(reply, LiveLocations).sessions

    async def unwatch_live_location(self, conversation_id: str, *, timeout_s: float = 30.0) -> None:
        """Watches the conversation no longer."""
        self._state.watches.remove(conversation_id)
        await self._request("unwatch_live_location", {"conversation_id": conversation_id}, timeout_s=timeout_s)

    async def _start(self, frame_type: str, fields: dict[str, object], *, timeout_s: float) -> LiveLocationStarted:
        return expect(await self._request(frame_type, fields, timeout_s=timeout_s), LiveLocationStarted)
