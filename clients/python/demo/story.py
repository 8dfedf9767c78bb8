"""Alice, Bob and Carol talk through a server that is killed in the middle: `python -m demo.story [--apart]`.

Exits with 0 only if nothing that was acked was lost, doubled or out of order, on any device.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from demo.cast import WAIT_S, Device, Person
from demo.record import Record, judge
from demo.server import Apart, Server
from demo.telling import Teller
from hither_client import Ack, Message, RequestFailed, RestClient

T = TypeVar("T")

_ASK_AGAIN_S = 0.5
BURST = 60
"""Messages that each of the three has on the way when the server is killed."""


@dataclass(slots=True)
class Stage:
    """Who and what takes part."""

    server: Server
    teller: Teller
    record: Record
    alice: Person
    bob: Person
    carol: Person
    group_id: str = ""

    @property
    def people(self) -> Sequence[Person]:
        """All three."""
        return (self.alice, self.bob, self.carol)

    @property
    def devices(self) -> Sequence[Device]:
        """All four."""
        return [device for person in self.people for device in person.devices.values()]


async def sign_up(stage: Stage) -> None:
    """Three accounts, four devices."""
    stage.teller.act("Three people sign up")
    for person, kinds in ((stage.alice, ["phone"]), (stage.bob, ["phone", "laptop"]), (stage.carol, ["phone"])):
        await person.sign_up()
        for kind in kinds:
            device = await person.sign_in(kind)
            await device.go_online()
            await device.wait_until(lambda device=device: device.synced > 0)  # type: ignore[misc]
            stage.teller.say(f"{device.name} is signed in and connected")


async def become_friends(stage: Stage) -> None:
    """One asks, the other asks back."""
    stage.teller.act("They become friends")
    for one, other in ((stage.alice, stage.bob), (stage.alice, stage.carol), (stage.bob, stage.carol)):
        asked = await one.rest.add_friend(other.user_id)
        answered = await other.rest.add_friend(one.user_id)
        stage.teller.say(f"{one.name} asks {other.name} ({asked.state}), {other.name} asks back ({answered.state})")


async def talk(stage: Stage) -> None:
    """One to one."""
    stage.teller.act("Alice and Bob talk")
    phone, laptop = stage.bob.devices["phone"], stage.bob.devices["laptop"]
    alice = stage.alice.devices["phone"]
    for sender, to, text in (
        (alice, "bob", "Are you there?"),
        (laptop, "alice", "Yes, on the laptop. The phone hears you too."),
        (alice, "bob", "Good. Carol wants to come along."),
    ):
        ack = await sender.send(text, to=to)
        await _all_have([ack], (alice, phone, laptop))
    await phone.mark_read(ack.conversation_id, ack.seq)
    await alice.wait_until(lambda: any(one.status == "SEEN" and one.seq >= ack.seq for one in alice.statuses))
    stage.teller.say("Bob reads on his phone, and Alice sees that he has")


async def talk_in_a_group(stage: Stage) -> None:
    """One to many."""
    stage.teller.act("A group of three")
    group = await stage.alice.rest.create_conversation("The trip", ["bob", "carol"])
    stage.group_id = group.conversation_id
    stage.teller.say(f"Alice makes the group {group.name!r} ({group.member_count} members)")
    for sender, text in (
        (stage.alice.devices["phone"], "Shall we go on Friday?"),
        (stage.carol.devices["phone"], "Friday is good."),
        (stage.bob.devices["phone"], "I bring the map."),
    ):
        await _all_have([await sender.send(text, conversation_id=group.conversation_id)], stage.devices)


async def miss_and_catch_up(stage: Stage) -> None:
    """A device is away, misses messages, returns and catches up."""
    stage.teller.act("Bob's phone goes offline and comes back")
    phone = stage.bob.devices["phone"]
    others = [device for device in stage.devices if device is not phone]
    synced = phone.synced
    await phone.go_offline()
    stage.teller.say("Bob's phone is off")
    missed: list[Ack] = []
    for sender, address, text in (
        (stage.carol.devices["phone"], {"conversation_id": stage.group_id}, "Who has the tickets?"),
        (stage.alice.devices["phone"], {"conversation_id": stage.group_id}, "I have them."),
        (stage.alice.devices["phone"], {"to": "bob"}, "Bob, bring a coat."),
        (stage.bob.devices["laptop"], {"to": "alice"}, "I will."),
    ):
        missed.append(await sender.send(text, **address))
    await _all_have(missed[:2], others)
    stage.teller.say(f"{len(missed)} messages have passed it by")
    before = len(stage.record.sightings[phone.name])
    begun = time.monotonic()
    await phone.go_online()
    await phone.wait_for(missed)
    await phone.wait_until(lambda: phone.synced > synced)
    caught = len(stage.record.sightings[phone.name]) - before
    stage.teller.say(
        f"Bob's phone is back and has caught up with {caught} after {(time.monotonic() - begun) * 1000:.0f} ms"
    )


async def retry(stage: Stage) -> None:
    """The same client id sent twice, over a connection that knows nothing of retries."""
    stage.teller.act("A send that is repeated is not doubled")
    tablet = await stage.carol.sign_in("tablet")
    del stage.carol.devices["tablet"]  # it only ever speaks frames by hand
    client_id = "the-same-id"
    frame = {"type": "send_message", "to": "alice", "client_id": client_id, "text": "Did this arrive twice?"}
    stage.record.sends[client_id] = time.monotonic()
    async with (
        asyncio.timeout(WAIT_S),
        connect(
            stage.server.urls[0].replace("http", "ws", 1) + "/ws",
            subprotocols=[Subprotocol("hither.v1.json")],
            additional_headers={"authorization": f"Bearer {tablet.token}"},
            proxy=None,
        ) as socket,
    ):
        acks = []
        for attempt in ("first", "second"):
            await socket.send(json.dumps({**frame, "id": attempt}))
            while (answer := json.loads(await socket.recv())).get("id") != attempt:
                pass
            acks.append(answer)
            stage.teller.say(
                f"{attempt} attempt: {answer['status']}, message {answer['message_id']}, seq {answer['seq']}"
            )
    if acks[0]["message_id"] != acks[1]["message_id"]:
        raise StoryError("the second attempt made a second message")
    first = acks[0]
    stage.record.acks[client_id] = Ack(
        client_id, int(first["message_id"]), first["conversation_id"], int(first["seq"]), first["create_time"]
    )
    await stage.alice.devices["phone"].wait_for([stage.record.acks[client_id]])
    await stage.carol.devices["phone"].wait_for([stage.record.acks[client_id]])


async def survive(stage: Stage) -> None:
    """Kill -9 in the middle of a burst."""
    stage.teller.act("kill -9 in the middle of a burst")
    alice, bob, carol = (person.devices["phone"] for person in stage.people)
    stage.teller.hushed = True
    already = len(stage.record.acks)
    async with asyncio.TaskGroup() as burst:
        sends: list[asyncio.Task[Ack]] = [
            burst.create_task(send(f"burst {number}"))
            for number in range(BURST)
            for send in (_to(alice, to="bob"), _to(bob, to="carol"), _to(carol, conversation_id=stage.group_id))
        ]
        async with asyncio.timeout(WAIT_S):
            for ack in asyncio.as_completed(sends[: len(sends) // 3]):
                await ack
        acked = len(stage.record.acks) - already
        await stage.server.kill()
        stage.teller.say(f"{len(sends)} messages are on their way, {acked} are acked: {stage.server.victim} is killed")
        begun = time.monotonic()
        await stage.server.start()
        stage.teller.say(f"up again after {(time.monotonic() - begun) * 1000:.0f} ms, same data, same port")
    acks = [task.result() for task in sends]
    stage.record.burst.update(ack.client_id for ack in acks)
    stage.teller.say(f"all {len(acks)} are acked {(time.monotonic() - begun) * 1000:.0f} ms after the kill")
    await _all_have([ack for ack in acks if ack.conversation_id == stage.group_id], stage.devices)
    await alice.wait_for(acks[0::3])
    for device in stage.bob.devices.values():
        await device.wait_for(acks)
    await carol.wait_for(acks[1::3])
    stage.teller.say("every device has every message that it should have")
    stage.teller.hushed = False


class StoryError(Exception):
    """Something did not go as the story says."""


async def judge_all(stage: Stage) -> bool:
    """Compares what was acked, what history has and what each device was handed."""
    histories: dict[str, list[Message]] = {}
    due: dict[str, list[str]] = {}
    for person in stage.people:
        mine = {conversation.conversation_id for conversation in await _asked(person.rest.conversations)}
        for conversation_id in mine - histories.keys():
            histories[conversation_id] = await _asked(partial(_history, person.rest, conversation_id))
        for device in person.devices.values():
            due[device.name] = sorted(mine)
    verdict = judge(stage.record, histories, due)
    stage.teller.summary(stage.record, verdict, sum(device.losses for device in stage.devices))
    stage.teller.draw()
    return verdict.held


def _to(device: Device, **address: str) -> Callable[[str], Coroutine[None, None, Ack]]:
    return lambda text: device.send(text, **address)


async def _asked(read: Callable[[], Awaitable[T]]) -> T:
    """Asks until there is an answer: for a while who was killed still owns what nobody has taken over yet."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await read()
            except RequestFailed as error:
                if not error.may_retry:
                    raise
                await asyncio.sleep(error.retry_after_s or _ASK_AGAIN_S)


async def _history(rest: RestClient, conversation_id: str) -> list[Message]:
    newest_first = [message async for message in rest.history(conversation_id)]
    return newest_first[::-1]


async def _all_have(acks: Sequence[Ack], devices: Sequence[Device]) -> None:
    async with asyncio.TaskGroup() as waits:
        for device in devices:
            waits.create_task(device.wait_for(acks))


async def play(server: Server, picture: Path | None = None) -> bool:
    """The whole story on a server without any users; whether all of it held."""
    teller, record = Teller(picture), Record()
    async with server:
        teller.say(server.describe())
        # Bob begins at another edge than the others, where there are several.
        urls = {"alice": server.urls, "bob": server.urls[::-1], "carol": server.urls}
        alice, bob, carol = (Person(name, its, record, teller.delivery) for name, its in urls.items())
        stage = Stage(server, teller, record, alice, bob, carol)
        try:
            for part in (sign_up, become_friends, talk, talk_in_a_group, miss_and_catch_up, retry, survive):
                await part(stage)
            return await judge_all(stage)
        finally:
            for person in stage.people:
                await person.leave()


def main() -> int:
    """0 if all of it held."""
    parser = argparse.ArgumentParser(description="Plays a story with real clients against a real server.")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write what is printed as an SVG too")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="on processes that run apart, with the engines and the registry that HITHER_* variables name",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hither-demo-") as folder:
        try:
            data = Path(folder) / "data"
            return 0 if asyncio.run(play(Apart(data) if options.apart else Server(data), options.picture)) else 1
        except (StoryError, TimeoutError) as error:
            print(f"\nThe story broke off: {error or type(error).__name__}", file=sys.stderr)
            log = Path(folder) / "server.log"
            print(log.read_text(errors="replace")[-4000:] if log.exists() else "", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
