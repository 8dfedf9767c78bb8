"""The push service of one process, as far as it is built: a servicer that says that it is not."""

import asyncio

from services.push.servicer import PushServicer


class Push:
    """Wake-ups for devices that are not connected. `servicer` refuses every call with NOT_BUILT."""

    def __init__(self) -> None:
        self.servicer = PushServicer()

    async def run(self) -> None:
        """Has nothing to do until it is cancelled."""
        await asyncio.Event().wait()
