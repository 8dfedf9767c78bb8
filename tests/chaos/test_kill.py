"""kill -9 at random moments while ten thousand messages are sent with retries: nothing acked is lost, doubled or out of order."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hither_client import ClientSettings, HitherClient, Message, MessageReceived, RestClient
from tests.chaos.checker import Sent, check_history, check_inbox
from tests.support.runner import RunningHither, running_hither

MESSAGES = 10_000
KILLS = 8
SENDERS = 10
PASSWORD = "correct horse"
UNHURRIED = {
    "HITHER_MESSAGING_SEND_RATE_PER_S": "100000",
    "HITHER_MESSAGING_SEND_BURST": "100000",
    "HITHER_EDGE_FRAMES_PER_S": "100000",
    "HITHER_EDGE_FRAMES_BURST": "100000",
}
QUICK = ClientSettings(first_retry_s=0.05, retry_limit_s=0.5, answer_deadline_s=2.0)


class Recorder:
    """What the clients saw."""

    def __init__(self, seed: int) -> None:
        self.acked: list[Sent] = []
        self._kill_at = sorted(random.Random(seed).sample(range(MESSAGES // 20, MESSAGES * 9 // 10), KILLS))
        self._news = asyncio.Condition()

    async def ack(self, sent: Sent) -> None:
        """Records an ack."""
        async with self._news:
            self.acked.append(sent)
            self._news.notify_all()

    async def kill_at_random(self, server: RunningHither) -> None:
        """Kills the server and starts it again whenever as many acks have come as the seed says."""
        for count in self._kill_at:
            async with self._news:
                await self._news.wait_for(lambda count=count: len(self.acked) >= count)  # type: ignore[misc]
            await server.kill()
            await server.start()


def seen(message: Message) -> Sent:
    """The message as the checker compares it."""
    return Sent(message.conversation_id, message.seq, message.message_id, message.client_id)


async def send_all(client: HitherClient, me: str, group_id: str, recorder: Recorder) -> None:
    """Sends this sender's share: half to Bob, half into the group, as fast as the answers come."""

    async def lane(name: str, **address: str) -> None:
        for number in range(MESSAGES // SENDERS // 2):
            client_id = f"{me}-{name}-{number}"
            ack = await client.send(text=f"{name} {number}", client_id=client_id, **address)  # type: ignore[arg-type]
            await recorder.ack(Sent(ack.conversation_id, ack.seq, ack.message_id, ack.client_id))

    async with asyncio.TaskGroup() as group:
        group.create_task(lane("direct", to="bob"))
        group.create_task(lane("group", conversation_id=group_id))


async def receive(client: HitherClient, count: int, into: list[tuple[int, Sent]]) -> None:
    """Records what a device gets until it has got `count` messages."""
    async for event in client.events():
        if isinstance(event, MessageReceived):
            into.append((event.pos, seen(event.message)))
            if len(into) == count:
                return


async def sign_up_all(url: str, names: Sequence[str]) -> None:
    """Makes the users, and each a friend of Bob's."""
    async with RestClient(url) as rest:
        for name in names:
            await rest.sign_up(name, name.title(), PASSWORD)
    for name in names:
        if name != "bob":
            async with await signed_in(url, name) as rest:
                await rest.add_friend("bob")
            async with await signed_in(url, "bob") as rest:
                await rest.add_friend(name)


async def signed_in(url: str, name: str, device: str = "rest") -> RestClient:
    """A REST client with a token of the user's."""
    async with RestClient(url) as rest:
        tokens = await rest.sign_in(name, PASSWORD, device)
    return RestClient(url, tokens.access_token)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kills_lose_double_and_reorder_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 (shown when the test fails)
    recorder = Recorder(seed)
    senders = [f"sender-{number}" for number in range(SENDERS)]
    phone: list[tuple[int, Sent]] = []
    laptop: list[tuple[int, Sent]] = []
    async with running_hither(tmp_path / "data", UNHURRIED) as server:
        await sign_up_all(server.url, ["bob", *senders])
        async with await signed_in(server.url, "bob") as rest:
            group_id = (await rest.create_conversation("everyone", senders)).conversation_id
        async with AsyncExitStack() as stack:

            async def client(name: str, device: str) -> HitherClient:
                token = await server.token(name, device)
                return await stack.enter_async_context(HitherClient(server.url, token, settings=QUICK))

            bobs = [await client("bob", device) for device in ("phone", "laptop")]
            clients = [await client(name, "phone") for name in senders]
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(recorder.kill_at_random(server))
                group.create_task(receive(bobs[0], MESSAGES, phone))
                group.create_task(receive(bobs[1], MESSAGES, laptop))
                for name, sender in zip(senders, clients, strict=True):
                    group.create_task(send_all(sender, name, group_id, recorder))
        assert killing.done()
        problems, history = await judge(server.url, recorder.acked)
    assert len(recorder.acked) == MESSAGES
    assert len(history) == MESSAGES
    assert problems == []
    assert check_inbox("phone", phone, history) == []
    assert check_inbox("laptop", laptop, history) == []
    assert phone == laptop


async def judge(url: str, acked: Sequence[Sent]) -> tuple[list[str], list[Sent]]:
    """Problems of all conversations together, and their messages."""
    problems: list[str] = []
    history: list[Sent] = []
    async with await signed_in(url, "bob") as rest:
        for conversation_id in sorted({sent.conversation_id for sent in acked}):
            messages = [seen(message) async for message in rest.history(conversation_id)][::-1]
            problems += check_history(conversation_id, messages, acked)
            history += messages
    return problems, history
