"""A burst in groups whose ten thousand members are all away, by the providers' real protocols, while Apple's server misbehaves in
every way it can: each push has the end that the policy says, the others' pushes do not wait, and nothing grows without bounds.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from discovery.clock import SystemClock
from hither.messaging.v1 import messaging_pb2, records_pb2
from services.ports.push_store import FOREVER_MS, Platform, PushTokenRow
from services.push import metrics
from services.push.partition import NO_TOKEN
from services.push.pipeline import PushPipeline
from services.push.pipeline_settings import PushPipelineSettings, PushPolicySettings
from services.push.providers.opening import open_providers
from services.storage.sql.directory import sqlite_url
from services.storage.sql.push import SqlPushStore
from services.storage.sql.push_deliveries import SqlDeliveryLog
from services.storage.sqlite.log import SqliteLog
from tests.chaos.judging import report
from tests.support.lone_mesh import LoneMesh
from tests.support.memory_push import Marks, NameBook
from tests.support.push.all_servers import PushServers
from tests.support.push.behaviour import CUT, GOAWAY, HANG, RESET, answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GROUPS: Final = 100
MEMBERS: Final = 100
MESSAGES: Final = 12
USERS: Final = GROUPS * MEMBERS
MOST_QUEUED: Final = 4_000
MOST_IN_FLIGHT: Final = 100
_NOBODY, _HAS_READ, _MUTED = 0, 1, 2
"""What of every ten users the first three are."""
_POLICY: Final = PushPolicySettings(pair_interval_s=20.0, silent_per_hour=1_000.0, group_gather_s=20.0)
"""All messages are read well before the first push is due."""
_SETTINGS: Final = PushPipelineSettings(
    most_queued=MOST_QUEUED, most_in_flight=MOST_IN_FLIGHT, takeover_pause_s=0, most_unrecorded=USERS
)


@dataclass(slots=True)
class User:
    """Somebody who is away. `gone`: Apple does not know the token any more."""

    number: int
    platform: Platform
    gone: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"user{self.number}"

    @property
    def kind(self) -> int:
        """Of every ten."""
        return self.number % 10

    def token(self, servers: PushServers) -> str:
        """As the device registered it."""
        if self.platform is Platform.IOS:
            return f"{self.number:064x}"
        return servers.web.subscription(self.name) if self.platform is Platform.WEB else f"fcm:{self.name}"


def everybody() -> list[User]:
    """A third with each provider; one in a hundred iPhones is gone."""
    users = [User(number, list(Platform)[number % 3]) for number in range(USERS)]
    for user in users:
        user.gone = user.platform is Platform.IOS and user.kind > _MUTED and user.number % 100 == 99
    return users


@dataclass(slots=True)
class Scene:
    """A process of push over embedded engines."""

    log: SqliteLog
    store: SqlPushStore
    delivery_log: SqlDeliveryLog
    servers: PushServers
    marks: Marks = field(default_factory=Marks)
    mesh: LoneMesh = field(default_factory=lambda: LoneMesh(partitions=16))

    async def settle(self, users: list[User]) -> None:
        """Everybody has a device or not, has muted the group or not, has read the messages or not."""
        for user in users:
            if user.kind != _NOBODY:
                row = PushTokenRow(user.name, "phone", user.platform, user.token(self.servers), 0)
                await self.store.put_token(row, 32)
            if user.kind == _MUTED:
                await self.store.put_mute(user.name, group_of(user), FOREVER_MS, 10)
            if user.kind == _HAS_READ:
                self.marks.seen[user.name, group_of(user)] = MESSAGES

    async def burst(self, users: list[User]) -> None:
        """MESSAGES in every group at once."""
        now_ms = SystemClock().now_ms()
        for seq in range(1, MESSAGES + 1):
            records: dict[int, list[bytes]] = {}
            for user in users:
                message = messaging_pb2.Message(
                    message_id=seq, conversation_id=group_of(user), seq=seq, sender_id="host", text="Here!"
                )
                message.create_time.FromMilliseconds(now_ms)
                record = records_pb2.PushRecord(user_id=user.name, pos=seq, message=message)
                records.setdefault(self.mesh.partition_of(user.name), []).append(record.SerializeToString())
            for partition, values in records.items():
                await self.log.append("push", partition, values)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[PushPipeline]:
        """A process of push that runs."""
        providers = open_providers(self.servers.settings)
        pipeline = PushPipeline(
            self.mesh.as_mesh(),
            self.log,
            self.store,
            self.delivery_log,
            providers,
            self.marks,
            SystemClock(),
            _POLICY,
            _SETTINGS,
            NameBook(),
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(pipeline.run())
            yield pipeline
            running.cancel()
        for provider in providers.values():
            await provider.close()

    async def committed(self) -> bool:
        """Whether everything is settled."""
        for partition in range(self.mesh.partitions):
            end = (await self.log.committed("push", "push", partition)).next_offset
            if await self.log.read("push", partition, end, 1):
                return False
        return True


def group_of(user: User) -> str:
    """Where the user gets messages."""
    return f"g.{user.number // MEMBERS}"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    keys = tmp_path / "keys"
    keys.mkdir()
    log = await SqliteLog.open(tmp_path / "log.db")
    store = await SqlPushStore.open(sqlite_url(tmp_path / "push.db"))
    delivery_log = await SqlDeliveryLog.open(sqlite_url(tmp_path / "push.db"))
    async with PushServers(keys) as servers:
        yield Scene(log, store, delivery_log, servers)
    for engine in (log, store, delivery_log):
        await engine.close()


class Counts:
    """What the metrics of push have counted since."""

    def __init__(self) -> None:
        self._before = self._now()

    def since(self) -> Counter[str]:
        """By what it counts."""
        now = self._now()
        now.subtract(self._before)
        return +now

    @staticmethod
    def _now() -> Counter[str]:
        counts: Counter[str] = Counter()
        for metric in (*metrics.WAKE_UPS.collect(), *metrics.MESSAGES_DROPPED.collect(), *metrics.GATHERED.collect()):
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    labels = [sample.labels.get(key, "") for key in ("kind", "fate", "reason")]
                    counts[" ".join(["gathered" if "gathered" in sample.name else "", *labels]).strip()] += int(
                        sample.value
                    )
        return counts


def misbehave(servers: PushServers, users: list[User]) -> None:
    """Every way in which Apple's server can fail, for those who come first; the tokens that are gone are gone for good."""
    iphones = [user for user in users if user.platform is Platform.IOS and user.kind > _MUTED]
    ways = (
        answers(429, "TooManyRequests", retry_after="1"),
        answers(500, "InternalServerError"),
        answers(503, "ServiceUnavailable"),
        GOAWAY,
        HANG,
        RESET,
        CUT,
    )
    for number, user in enumerate(iphones[:140]):
        servers.apns.behave(ways[number % len(ways)], token=user.token(servers), times=1)
    for user in iphones:
        if user.gone:
            servers.apns.behave(answers(410, "Unregistered"), token=user.token(servers))


async def test_ten_thousand_who_are_away_are_each_woken_up_as_the_policy_says(scene: Scene) -> None:
    users = everybody()
    await scene.settle(users)
    misbehave(scene.servers, users)
    counts = Counts()
    began_s = time.monotonic()
    most_waiting = most_held = 0
    await scene.burst(users)
    async with scene.process() as pipeline:
        others_s = 0.0
        while not await scene.committed():
            lanes = pipeline.dispatcher.lanes.values()
            most_waiting = max(most_waiting, *(lane.queued + lane.in_flight for lane in lanes))
            most_held = max(most_held, pipeline.held)
            if not others_s and len(scene.servers.fcm.accepted) + len(scene.servers.web.accepted) == due_elsewhere(
                users
            ):
                others_s = time.monotonic() - began_s
            await asyncio.sleep(0.02)  # the log tells nobody of a commit
        took_s = time.monotonic() - began_s

    told = [user for user in users if user.kind > _MUTED]
    gone = sum(user.gone for user in told)
    assert counts.since() == {
        NO_TOKEN: USERS // 10 * MESSAGES,
        "group dropped READ": USERS // 10,
        "sync accepted": USERS // 10,
        "group accepted": len(told) - gone,
        "group refused Unregistered": gone,
        "gathered group": len(told + users[: USERS // 10]) * (MESSAGES - 1),
        "gathered sync": USERS // 10 * (MESSAGES - 1),
    }
    assert_each_was_woken_up_once(scene.servers, users)
    assert most_waiting <= MOST_QUEUED + MOST_IN_FLIGHT
    assert most_held <= USERS * MESSAGES
    report(
        f"push, {USERS} users away, {MESSAGES} messages each: {len(told) + USERS // 10 - gone} sent, all settled after "
        f"{took_s:.1f} s, those of other providers after {others_s:.1f} s; at most {most_waiting} waited for a provider"
    )


def due_elsewhere(users: list[User]) -> int:
    """Pushes that are to go by other providers than Apple."""
    return sum(user.platform is not Platform.IOS and user.kind >= _MUTED for user in users)


def assert_each_was_woken_up_once(servers: PushServers, users: list[User]) -> None:
    """By its provider, and by no other. What Apple's server took although it did not say so came again as the same push."""
    for platform, server in (
        (Platform.IOS, servers.apns),
        (Platform.ANDROID, servers.fcm),
        (Platform.WEB, servers.web),
    ):
        due = {
            servers.web.endpoint(user.name) if platform is Platform.WEB else user.token(servers)
            for user in users
            if user.platform is platform and user.kind >= _MUTED and not user.gone
        }
        pushes = Counter(accepted.token for accepted in server.accepted)
        assert pushes.keys() == due
        if platform is not Platform.IOS:
            assert set(pushes.values()) == {1}
    ids = Counter((one.token, one.headers["apns-id"], one.headers["apns-collapse-id"]) for one in servers.apns.accepted)
    assert len(ids) == len({token for token, _, _ in ids})
