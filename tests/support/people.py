"""People for scenarios: they sign up by REST and speak JSON frames as DESIGN names them, without the SDK in between."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

JSON = Subprotocol("hither.v1.json")
PROTO = Subprotocol("hither.v1.proto")
WAIT_S = 30.0
_ASK_S = 0.02
_numbers = itertools.count(1)

Frame = dict[str, Any]


def fresh(name: str) -> str:
    """A user id that no other test of this run has."""
    return f"{name}-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-up user and a token for one device."""

    user_id: str
    token: str
    http: httpx.AsyncClient

    async def request(self, method: str, path: str, body: object = None, **query: Any) -> httpx.Response:
        """A REST request in this person's name."""
        return await self.http.request(
            method, f"/api/v1{path}", json=body, params=query, headers={"authorization": f"Bearer {self.token}"}
        )

    async def post(self, path: str, body: object) -> Frame:
        """A POST that must succeed."""
        answer = await self.request("POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def put(self, path: str, body: object) -> Frame:
        """A PUT that must succeed."""
        answer = await self.request("PUT", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def get(self, path: str, **query: Any) -> Frame:
        """A GET that must succeed."""
        answer = await self.request("GET", path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def on(self, device_id: str) -> "Person":
        """The same user, signed in on another device."""
        return Person(self.user_id, await sign_in(self.http, self.user_id, device_id), self.http)


async def sign_in(http: httpx.AsyncClient, user_id: str, device_id: str) -> str:
    """An access token for the device."""
    answer = await http.post(
        "/api/v1/sessions", json={"user_id": user_id, "password": "correct horse", "device_id": device_id}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def sign_up(http: httpx.AsyncClient, name: str, device_id: str = "phone") -> Person:
    """A new user, signed in."""
    user_id = fresh(name)
    answer = await http.post(
        "/api/v1/users", json={"user_id": user_id, "name": name.title(), "password": "correct horse"}
    )
    assert answer.status_code == 200, answer.text
    return Person(user_id, await sign_in(http, user_id, device_id), http)


async def befriend(one: Person, other: Person) -> None:
    """Makes the two friends: one asks, the other asks back."""
    await one.post("/friends", {"friend_id": other.user_id})
    answer = await other.post("/friends", {"friend_id": one.user_id})
    assert answer["friendship"]["state"] == "ACCEPTED"


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again until it is true: for what a server tells nobody of."""
    async with asyncio.timeout(WAIT_S):
        while not await true():  # noqa: ASYNC110 (the server tells nobody, so there is no event)
            await asyncio.sleep(_ASK_S)


class Line:
    """An open WebSocket that speaks JSON frames. Frames that a wait passes over are kept for later waits, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._kept: list[Frame] = []
        self._ids = itertools.count(1)

    async def send(self, type_: str, **fields: Any) -> None:
        """Sends a frame."""
        await self.socket.send(json.dumps({"type": type_, **fields}))

    async def ask(self, type_: str, **fields: Any) -> Frame:
        """Sends a request and returns its answer, whatever it is."""
        id_ = f"r{next(self._ids)}"
        await self.send(type_, id=id_, **fields)
        return await self.next(id=id_)

    async def next(self, *types: str, **fields: Any) -> Frame:
        """The next frame of one of the types (any, if none is named) with these fields."""

        def fits(frame: Mapping[str, Any]) -> bool:
            return (not types or frame["type"] in types) and all(
                frame.get(key) == value for key, value in fields.items()
            )

        for index, frame in enumerate(self._kept):
            if fits(frame):
                return self._kept.pop(index)
        async with asyncio.timeout(WAIT_S):
            while True:
                received: Frame = json.loads(await self.socket.recv())
                if fits(received):
                    return received
                self._kept.append(received)

    def passed_over(self, type_: str, **fields: Any) -> list[Frame]:
        """The kept frames of the type with these fields: what has come and no wait has taken."""
        return [
            frame
            for frame in self._kept
            if frame["type"] == type_ and all(frame.get(key) == value for key, value in fields.items())
        ]

    async def texts(self, count: int) -> list[str]:
        """The texts of the next messages, in the order in which they came."""
        return [(await self.next("message"))["message"]["text"] for _ in range(count)]

    async def closed(self) -> tuple[int, str]:
        """Close code and reason, once the server has closed the connection."""
        async with asyncio.timeout(WAIT_S):
            try:
                while True:
                    self._kept.append(json.loads(await self.socket.recv()))
            except websockets.ConnectionClosed:
                return self.socket.close_code or 0, self.socket.close_reason or ""


@asynccontextmanager
async def line(websocket_url: str, person: Person, cursor: int | None = None) -> AsyncIterator[Line]:
    """A connection of this person that has caught up."""
    suffix = "" if cursor is None else f"&cursor={cursor}"
    # Without a bound of its own: a test that reads nothing for a while must still see the end of its connection.
    address = f"{websocket_url}?token={person.token}{suffix}"
    async with connect(address, subprotocols=[JSON], max_queue=None) as socket:
        opened = Line(socket)
        await opened.next("connected")
        if cursor is None:
            await opened.next("synced")
        yield opened
