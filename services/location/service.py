"""The location service of one process: its servicer, and the work in the background for what its users share live."""

from services.location.live_service import Live
from services.location.servicer import LocationServicer


class Location:
    """Whereabouts. `servicer` answers from the start; viewers of live locations are told while run() runs."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.servicer = LocationServicer(live)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        await self._live.run()
