"""The push service of one process: its servicer, and the work in the background that wakes devices up."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog

from discovery.clock import Clock
from services.ports.push_provider import PushProvider
from services.ports.push_store import DeliveryLog, PushStore
from services.push.servicer import PushServicer
from services.push.settings import PushSettings
from services.push.trying import TestSender, Trials
from services.push.wishes import Wishes

_CLOSE_TIMEOUT_S = 5.0
_log = structlog.get_logger("hither.push")


class Pipeline(TestSender, Protocol):
    """What wakes devices up: services.push.pipeline.PushPipeline."""

    async def run(self) -> None:
        """Works until cancelled; raises when a part of it dies."""

    async def handed_over(self) -> None:
        """Returns when nothing is left here of what this process does not own any more."""


class Push:
    """Who can be woken up, how they want it, and when they are. `servicer` answers from the start. `providers` are what the pipeline
    sends by: they are closed when run() ends. `application_server_key` is what browsers subscribe with; empty: they cannot.
    """

    def __init__(
        self,
        store: PushStore,
        delivery_log: DeliveryLog,
        pipeline: Pipeline,
        providers: Iterable[PushProvider],
        clock: Clock,
        settings: PushSettings = PushSettings(),  # noqa: B008 - frozen
        application_server_key: str = "",
    ) -> None:
        self._pipeline = pipeline
        self._providers = tuple(providers)
        wishes = Wishes(store, clock, settings)
        trials = Trials(store, delivery_log, pipeline, clock, settings)
        self.servicer = PushServicer(store, delivery_log, wishes, trials, clock, settings, application_server_key)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        try:
            await self._pipeline.run()
        finally:
            await self._close()

    async def handed_over(self) -> None:
        """See services.catalogue.HandsOver."""
        await self._pipeline.handed_over()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*(provider.close() for provider in self._providers))
        except TimeoutError:
            _log.warning("providers.closing took too long")
