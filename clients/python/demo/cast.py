"""The people of the story and their devices, each a real client."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

from demo.record import Record, Sighting
from hither_client import (
    Ack,
    ClientClosed,
    Disconnected,
    Event,
    HitherClient,
    MemoryCursorStore,
    MessageReceived,
    MessageStatus,
    RestClient,
    Synced,
)

WAIT_S = 60.0
"""The longest that the story waits for anything."""


class Device:
    """A device of a person: connected or not, it remembers its place and notes what it is handed."""

    def __init__(
        self, owner: str, kind: str, urls: Sequence[str], token: str, record: Record, tell: Callable[[Sighting], None]
    ) -> None:
        self.name = f"{owner}'s {kind}"
        self.token = token
        self._urls = urls
        self._record = record
        self._tell = tell
        self._cursor = MemoryCursorStore()
        self._client: HitherClient | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._came = asyncio.Condition()
        self._live_since_s = 0.0
        self.synced = 0
        self.losses = 0
        self.statuses: list[MessageStatus] = []

    async def go_online(self) -> None:
        """Connects, and goes on from where the device was."""
        self._client = HitherClient(self._urls, self.token, cursor=self._cursor, open_timeout_s=WAIT_S, proxy=None)
        await self._client.open()
        self._watcher = asyncio.create_task(self._watch(self._client))

    async def go_offline(self) -> None:
        """Closes the connection."""
        if self._client is not None and self._watcher is not None:
            await self._client.close()
            await self._watcher
        self._client = self._watcher = None
        self._live_since_s = 0.0

    async def send(self, text: str, *, to: str = "", conversation_id: str = "") -> Ack:
        """Sends a message and notes what came of it."""
        assert self._client is not None
        client_id = uuid.uuid4().hex
        begun = self._record.sends[client_id] = time.monotonic()
        ack = await self._client.send(
            text=text, to=to, conversation_id=conversation_id, client_id=client_id, timeout_s=WAIT_S
        )
        self._record.ack_latencies_s[client_id] = time.monotonic() - begun
        self._record.acks[client_id] = ack
        return ack

    async def mark_read(self, conversation_id: str, seq: int) -> None:
        """The person has read that far."""
        assert self._client is not None
        await self._client.mark_read(conversation_id, seq)

    async def wait_for(self, acks: Iterable[Ack]) -> None:
        """Waits until the device has all of these messages."""
        wanted = {ack.client_id for ack in acks}
        await self.wait_until(lambda: wanted <= self._record.seen_by(self.name))

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds that an event brings about."""
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(holds)

    async def _watch(self, client: HitherClient) -> None:
        try:
            async for event in client.events():
                self._note(event)
                async with self._came:
                    self._came.notify_all()
        except ClientClosed:
            return

    def _note(self, event: Event) -> None:
        match event:
            case MessageReceived(message=message, pos=pos):
                now_s = time.monotonic()
                sent_s = self._record.sends[message.client_id]
                live = 0 < self._live_since_s <= sent_s
                sighting = Sighting(self.name, message, pos, now_s - sent_s, live)
                self._record.sightings[self.name].append(sighting)
                self._tell(sighting)
            case MessageStatus():
                self.statuses.append(event)
            case Synced():
                self.synced += 1
                self._live_since_s = time.monotonic()
            case Disconnected():
                self.losses += 1
                self._live_since_s = 0.0
            case _:
                pass


class Person:
    """Somebody with an account and one or more devices, which connect to the first of the URLs that answers."""

    def __init__(self, user_id: str, urls: Sequence[str], record: Record, tell: Callable[[Sighting], None]) -> None:
        self.user_id = user_id
        self.name = user_id.capitalize()
        self.devices: dict[str, Device] = {}
        self._password = uuid.uuid4().hex
        self._urls = urls
        self._record = record
        self._tell = tell
        self.rest = RestClient(urls[0])

    async def sign_up(self) -> None:
        """Makes the account."""
        await self.rest.sign_up(self.user_id, self.name, self._password)

    async def sign_in(self, kind: str) -> Device:
        """Signs a device in."""
        tokens = await self.rest.sign_in(self.user_id, self._password, kind)
        device = Device(self.name, kind, self._urls, tokens.access_token, self._record, self._tell)
        self.devices[kind] = device
        if len(self.devices) == 1:
            await self.rest.close()
            self.rest = RestClient(self._urls[0], tokens.access_token)
        return device

    async def leave(self) -> None:
        """Closes everything."""
        for device in self.devices.values():
            await device.go_offline()
        await self.rest.close()
