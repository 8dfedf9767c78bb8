"""Two hundred people who write to each other without a pause, and what each of them saw, while a test breaks things.

One message in ten goes into a group of ten, the others to one other person. A person's next message is sent when the last
one was acked. Everything that was acked and everything that arrived is kept, for the checker.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hither_client import ClientSettings, HitherClient, Message, MessageReceived, RestClient
from tests.chaos.checker import Sent, check_history, check_inbox

PEOPLE = 200
GROUP = 10
PAUSE_S = 0.5
"""Between an ack and the next message of the same person: two shared cores hold the cluster, its engines and the people."""
SETTLE_S = 120.0
_PASSWORD = "correct horse"
_AT_ONCE = 8
_QUICK = ClientSettings(first_retry_s=0.05, retry_limit_s=0.5, answer_deadline_s=2.0)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a message took to be acked."""

    began_s: float
    acked_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a fault cost: the longest that one message waited for its ack, the longest that nobody got one, how many messages
    were acked from the fault on, and how many of them waited for more than a second.
    """

    longest_wait_s: float
    longest_silence_s: float
    acked: int
    slow: int

    def __str__(self) -> str:
        return (
            f"longest wait for an ack {self.longest_wait_s:.2f} s, longest silence {self.longest_silence_s:.2f} s, "
            f"{self.slow} of {self.acked} waited more than 1 s"
        )


@dataclass(slots=True)
class Person:
    """A device and what it did and saw."""

    name: str
    client: HitherClient
    friend: str
    group_id: str
    received: list[tuple[int, Sent]] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)


class Storm:
    """`async with Storm(urls, tokens)` connects everybody and begins; `urls` are the edges', tokens of "p0" to "p199"."""

    def __init__(self, urls: Sequence[str], tokens: Sequence[str]) -> None:
        self._urls = list(urls)
        self._tokens = tokens
        self._people: list[Person] = []
        self._acked: defaultdict[str, list[Sent]] = defaultdict(list)
        self._members: defaultdict[str, list[str]] = defaultdict(list)
        self._going = asyncio.Event()
        self._idle = 0
        self._news = asyncio.Condition()
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        names = [f"p{number}" for number in range(PEOPLE)]
        await self._sign_up(names)
        groups = [names[start : start + GROUP] for start in range(0, PEOPLE, GROUP)]
        group_ids = [await self._make_group(group) for group in groups]
        for number, name in enumerate(names):
            turn = number % len(self._urls)
            urls = self._urls[turn:] + self._urls[:turn]
            client = await self._stack.enter_async_context(
                HitherClient(urls, self._tokens[number], settings=_QUICK, proxy=None)
            )
            self._people.append(Person(name, client, names[number ^ 1], group_ids[number // GROUP]))
        await self._tasks.__aenter__()
        self._going.set()
        for person in self._people:
            self._running.append(self._tasks.create_task(self._receive(person)))
            self._running.append(self._tasks.create_task(self._send(person)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._stack.aclose()

    async def everybody_acked(self, since_s: float, times: int = 1) -> None:
        """Returns when everybody has had that many acks for messages that were begun after `since_s` (time.monotonic)."""
        async with self._news:
            await self._news.wait_for(
                lambda: all(
                    sum(wait.began_s >= since_s for wait in person.waits[-times:]) >= times for person in self._people
                )
            )

    def figures(self, since_s: float) -> Figures:
        """Of the messages that were acked after `since_s`."""
        waits = sorted(
            (wait for person in self._people for wait in person.waits if wait.acked_s >= since_s),
            key=lambda wait: wait.acked_s,
        )
        acks = [since_s, *(wait.acked_s for wait in waits)]
        return Figures(
            longest_wait_s=max(wait.acked_s - wait.began_s for wait in waits),
            longest_silence_s=max(after - before for before, after in itertools.pairwise(acks)),
            acked=len(waits),
            slow=sum(wait.acked_s - wait.began_s > 1 for wait in waits),
        )

    async def problems(self) -> list[str]:
        """Lets everybody finish, waits until everything has arrived, and says what is wrong with it; then the storm goes on."""
        self._going.clear()
        try:
            async with asyncio.timeout(SETTLE_S), self._news:
                await self._news.wait_for(lambda: self._idle == PEOPLE)
            histories = await self._histories()
            due = self._due(histories)
            problems = await self._all_arrived(due)
            for conversation_id, history in histories.items():
                problems += check_history(conversation_id, history, self._acked[conversation_id])
            for person in self._people:
                problems += check_inbox(person.name, person.received, due[person.name])
        finally:
            self._going.set()
        return problems

    async def _all_arrived(self, due: dict[str, list[Sent]]) -> list[str]:
        def missing() -> list[str]:
            return [
                f"{person.name} has {len(person.received)} of {len(due[person.name])} messages"
                for person in self._people
                if len(person.received) < len(due[person.name])
            ]

        try:
            async with asyncio.timeout(SETTLE_S), self._news:
                await self._news.wait_for(lambda: not missing())
        except TimeoutError:
            return missing()
        return []

    async def _histories(self) -> dict[str, list[Sent]]:
        """Every conversation as one of its members reads it, oldest first."""
        readers: dict[str, str] = {}
        self._members.clear()
        for person in self._people:
            for conversation_id in {sent.conversation_id for _, sent in person.received}:
                readers.setdefault(conversation_id, self._tokens[int(person.name[1:])])
                self._members[conversation_id].append(person.name)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def read(conversation_id: str, token: str) -> list[Sent]:
            async with slots, RestClient(self._urls[0], token) as rest:
                return [seen(message) async for message in rest.history(conversation_id)][::-1]

        found = await asyncio.gather(*(read(*reader) for reader in readers.items()))
        return dict(zip(readers, found, strict=True))

    def _due(self, histories: dict[str, list[Sent]]) -> dict[str, list[Sent]]:
        due: defaultdict[str, list[Sent]] = defaultdict(list)
        for conversation_id, history in histories.items():
            for name in self._members[conversation_id]:
                due[name] += history
        return due

    async def _send(self, person: Person) -> None:
        for number in itertools.count():
            if not self._going.is_set():
                await self._rest()
            group_id = person.group_id if number % 10 == 0 else ""
            friend = "" if group_id else person.friend
            client_id = f"{person.name}-{number}"
            began_s = time.monotonic()
            ack = await person.client.send(text="hi", to=friend, conversation_id=group_id, client_id=client_id)
            person.waits.append(Wait(began_s, time.monotonic()))
            async with self._news:
                self._acked[ack.conversation_id].append(
                    Sent(ack.conversation_id, ack.seq, ack.message_id, ack.client_id)
                )
                self._news.notify_all()
            await asyncio.sleep(PAUSE_S)

    async def _rest(self) -> None:
        async with self._news:
            self._idle += 1
            self._news.notify_all()
        await self._going.wait()
        self._idle -= 1

    async def _receive(self, person: Person) -> None:
        async for event in person.client.events():
            if isinstance(event, MessageReceived):
                async with self._news:
                    person.received.append((event.pos, seen(event.message)))
                    self._news.notify_all()

    async def _sign_up(self, names: Sequence[str]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def sign_up(name: str) -> None:
            async with slots:
                await rest.sign_up(name, name, _PASSWORD)

        async with RestClient(self._urls[0]) as rest, asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(sign_up(name))

    async def _make_group(self, names: Sequence[str]) -> str:
        """A group of these, all friends of the first."""
        numbers = [int(name[1:]) for name in names]
        async with RestClient(self._urls[0], self._tokens[numbers[0]]) as first:
            for name, number in zip(names[1:], numbers[1:], strict=True):
                await first.add_friend(name)
                async with RestClient(self._urls[0], self._tokens[number]) as other:
                    await other.add_friend(names[0])
            return (await first.create_conversation("storm", names[1:])).conversation_id


def seen(message: Message) -> Sent:
    """The message as the checker compares it."""
    return Sent(message.conversation_id, message.seq, message.message_id, message.client_id)
