"""The location service of one process, as far as it is built: a servicer that says that it is not."""

import asyncio

from services.location.servicer import LocationServicer


class Location:
    """Whereabouts. `servicer` refuses every call with NOT_BUILT."""

    def __init__(self) -> None:
        self.servicer = LocationServicer()

    async def run(self) -> None:
        """Has nothing to do until it is cancelled."""
        await asyncio.Event().wait()
