"""Push as one process runs it, over a log that outlives it, with providers that answer as the test has them."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from hither.messaging.v1 import messaging_pb2, records_pb2
from services.ports.log import Log
from services.ports.push_provider import WakeUp
from services.ports.push_store import Platform
from services.push.pipeline import PushPipeline
from services.push.pipeline_settings import PushPipelineSettings, PushPolicySettings
from tests.support.clock import ManualClock
from tests.support.lone_mesh import LoneMesh
from tests.support.memory_push import Marks, MemoryDeliveryLog, MemoryPushStore, NameBook, ScriptedProvider

SETTINGS = PushPipelineSettings(
    commit_interval_s=0, takeover_pause_s=0, leave_timeout_s=5, retry_min_s=0.01, engine_retry_max_s=0.01
)

POLICY = PushPolicySettings()


@dataclass(slots=True)
class World:
    """What outlives the process."""

    log: Log
    clock: ManualClock = field(default_factory=ManualClock)
    mesh: LoneMesh = field(default_factory=lambda: LoneMesh(partitions=2))
    store: MemoryPushStore = field(default_factory=MemoryPushStore)
    delivery_log: MemoryDeliveryLog = field(default_factory=MemoryDeliveryLog)
    marks: Marks = field(default_factory=Marks)
    names: NameBook = field(default_factory=NameBook)
    providers: dict[Platform, ScriptedProvider] = field(
        default_factory=lambda: {platform: ScriptedProvider() for platform in Platform}
    )
    ends: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    seqs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def ios(self) -> ScriptedProvider:
        """The provider of most devices."""
        return self.providers[Platform.IOS]

    def record(
        self, user: str, conversation: str, sender: str, seq: int, text: str = "hello", media: str = ""
    ) -> bytes:
        """A record of the log, of a message that is accepted now."""
        message = messaging_pb2.Message(message_id=seq, conversation_id=conversation, seq=seq, sender_id=sender)
        if media:
            message.content.media_type = media
            message.content.data = b"{}"
        else:
            message.text = text
        message.create_time.FromMilliseconds(self.clock.now_ms())
        return records_pb2.PushRecord(user_id=user, pos=seq, message=message).SerializeToString()

    async def message(
        self, user: str = "ben", sender: str = "ann", conversation: str = "", text: str = "hello", media: str = ""
    ) -> int:
        """A message came for the user; returns its seq."""
        conversation = conversation or f"d.{'.'.join(sorted((user, sender)))}"
        self.seqs[conversation] += 1
        await self.append(user, [self.record(user, conversation, sender, self.seqs[conversation], text, media)])
        return self.seqs[conversation]

    async def append(self, user: str, values: list[bytes]) -> None:
        """Records for the user's partition, or of users of the same."""
        partition = self.mesh.partition_of(user)
        self.ends[partition] = (await self.log.append("push", partition, values))[-1] + 1

    @asynccontextmanager
    async def process(
        self, settings: PushPipelineSettings = SETTINGS, policy: PushPolicySettings = POLICY
    ) -> AsyncIterator[PushPipeline]:
        """A process; at the end it is killed."""
        pipeline = self.pipeline(settings, policy)
        running = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            ended = running.done()
            running.cancel()
            await asyncio.wait([running])
            if ended:
                running.result()

    def pipeline(self, settings: PushPipelineSettings = SETTINGS, policy: PushPolicySettings = POLICY) -> PushPipeline:
        """A process that does not run yet."""
        return PushPipeline(
            self.mesh.as_mesh(),
            self.log,
            self.store,
            self.delivery_log,
            self.providers,
            self.marks,
            self.clock,
            policy,
            settings,
            self.names,
            random.Random(1),
        )

    async def committed(self) -> None:
        """Returns when everything that was appended is settled and committed."""
        for partition, end in self.ends.items():
            async with asyncio.timeout(30):
                while (await self.log.committed("push", "push", partition)).next_offset < end:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)  # the log tells nobody of a commit

    def pass_s(self, pipeline: PushPipeline, seconds: float) -> None:
        """Time passes, and the process notices."""
        self.clock.advance(seconds)
        pipeline.wake()


def quick(**changes: object) -> PushPipelineSettings:
    """SETTINGS with some changed."""
    return replace(SETTINGS, **changes)  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    """Returns when the condition holds; for what nobody announces."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def ids(wake_up: WakeUp) -> tuple[str, str]:
    """What makes a push the same one."""
    return wake_up.push_id, wake_up.collapse_id
