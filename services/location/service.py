"""The location service of one process: its servicer, and the work in the background for friends nearby and what is shared live."""

import asyncio

from services.location.live_service import Live
from services.location.nearby_service import Nearby
from services.location.servicer import LocationServicer


class Location:
    """Whereabouts. `servicer` answers from the start; viewers are told while run() runs."""

    def __init__(self, nearby: Nearby, live: Live) -> None:
        self._nearby = nearby
        self._live = live
        self.servicer = LocationServicer(nearby, live)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        async with asyncio.TaskGroup() as work:
            work.create_task(self._nearby.run(), name="location-nearby")
            work.create_task(self._live.run(), name="location-live")
