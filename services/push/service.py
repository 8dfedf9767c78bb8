"""The push service of one process: its servicer, and the work in the background that wakes devices up."""

import asyncio

from discovery.clock import Clock
from discovery.mesh import Mesh
from services.ports.push_store import DeliveryLog, PushStore
from services.push.servicer import PushServicer
from services.push.settings import PushSettings
from services.push.trying import TestSender, Trials
from services.push.wishes import Wishes

SERVICE = "hither.push.v1.PushService"


class Push:
    """Who can be woken up, and how they want it. `servicer` answers from the start. Without a `test_sender` no test can be sent."""

    def __init__(
        self,
        mesh: Mesh,
        store: PushStore,
        delivery_log: DeliveryLog,
        clock: Clock,
        settings: PushSettings = PushSettings(),  # noqa: B008 - frozen
        test_sender: TestSender | None = None,
    ) -> None:
        self._mesh = mesh
        wishes = Wishes(store, clock, settings)
        trials = Trials(store, delivery_log, test_sender, clock, settings)
        self.servicer = PushServicer(store, delivery_log, wishes, trials, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        async with asyncio.TaskGroup() as work:
            # What wakes devices up is a task of this group; until there is one, the group waits for its end.
            work.create_task(asyncio.Event().wait(), name="push-idle")
