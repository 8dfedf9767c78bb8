"""Two friends beside a storm, who find out what works while something is away."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.support.apart import RunningCluster
from tests.support.people import WAIT_S, Frame, Line, Person, befriend, line, sign_up


class Bystanders:
    """Ann and Bob, friends who have talked, each with a device that is connected; and Eve, whom nobody knows yet."""

    def __init__(self, ann: Person, bob: Person, eve: Person, anns: Line, bobs: Line) -> None:
        self.ann = ann
        self.bob = bob
        self.eve = eve
        self._anns = anns
        self._bobs = bobs
        self._numbers = itertools.count(1)

    async def talk(self) -> str:
        """Ann's message is acked, and Bob's device gets it while it is connected; the text."""
        text = f"number {next(self._numbers)}"
        client_id = text
        async with asyncio.timeout(WAIT_S):
            while (answer := await self._say(text, client_id))["type"] != "ack":  # noqa: ASYNC110 (the answer says when to come back)
                await asyncio.sleep(int(answer["retry_after_ms"]) / 1000)
        # One that was refused before may come first: where its outcome was not known, it may be in the log.
        while (await self._bobs.next("message"))["message"]["text"] != text:
            pass
        return text

    async def say(self) -> Frame:
        """What Ann is answered to an attempt to send; to another one where the edge itself gave up waiting."""
        async with asyncio.timeout(WAIT_S):
            while True:
                text = f"number {next(self._numbers)}"
                answer = await self._say(text, text)
                if answer.get("code") != "DEADLINE_EXCEEDED":
                    return answer

    async def is_noticed(self) -> None:
        """Ann goes away and comes back, and Bob learns of both."""
        for status in ("AWAY", "ONLINE"):
            text = f"number {next(self._numbers)}"  # tells it from what he was told before
            answer = await self._anns.ask("set_presence", status=status, text=text)
            assert answer["type"] == "ok", answer
            await self._bobs.next("presence", user_id=self.ann.user_id, status=status, text=text)

    async def read_back(self) -> list[str]:
        """The texts that Bob finds in his inbox."""
        page = await self._bobs.ask("sync", pos="0", limit=200)
        return [event["message"]["text"] for event in page["events"] if event["type"] == "message"]

    async def ask_eve(self) -> httpx.Response:
        """What Ann is answered when she wants to be Eve's friend."""
        return await self.ann.request("POST", "/friends", {"friend_id": self.eve.user_id})

    async def _say(self, text: str, client_id: str) -> Frame:
        return await self._anns.ask("send_message", to=self.bob.user_id, client_id=client_id, text=text)


@asynccontextmanager
async def bystanders(cluster: RunningCluster) -> AsyncIterator[Bystanders]:
    """The three, as new users of the cluster."""
    async with httpx.AsyncClient(base_url=cluster.url, timeout=WAIT_S) as http:
        ann, bob, eve = [await sign_up(http, name) for name in ("ann", "bob", "eve")]
        await befriend(ann, bob)
        async with line(cluster.websocket_url, ann) as anns, line(cluster.websocket_url, bob) as bobs:
            people = Bystanders(ann, bob, eve, anns, bobs)
            await people.talk()
            yield people
