"""Sharing where one is, live, as its user holds it in hand: every call is one frame of the contract."""

from datetime import datetime
from typing import Protocol

from hither_client.models import LiveLocationStarted


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
