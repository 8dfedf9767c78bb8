"""The process beside a Redis that serves the bus: opens the registry, and keeps the server announced until it is to stop."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from discovery.clock import SystemClock
from services.config import Config, ConfigError
from services.data_directory import DataDirectory
from services.registries import EMBEDDED, open_registry


async def keep_bus_server(
    config: Config, url: str, weight: int, advertise: str, announce: Callable[[bool], None]
) -> None:
    """Keeps the Redis at the URL in the registry while it answers, until SIGTERM or SIGINT. `announce` is told whether it is
    there. Raises ConfigError.
    """
    from services.storage.redis.keeper import BusServerKeeper  # only this process loads the driver for it

    if config.mesh.registry == EMBEDDED:
        raise ConfigError("mesh: a server of the bus stands in a registry: say --registry etcd://HOST:PORT")
    data = DataDirectory(Path(config.process.data))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_registry(config.mesh, data.cluster, SystemClock()) as registry:
        try:
            keeper = BusServerKeeper.of(registry, url, weight=weight, advertise=advertise, on_change=announce)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(keeper.run(), name="bus-server")
            await stop.wait()
            keeping.cancel()
