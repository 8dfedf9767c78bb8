"""Which engine a URL opens, where Redis is concerned; and which URLs are refused."""

import asyncio
from pathlib import Path

import pytest

from discovery.clock import SystemClock
from discovery.registry.embedded import EmbeddedRegistry
from services.config import Config, ConfigError, EnginesSettings
from services.data_directory import DataDirectory
from services.engine_health import EngineHealth
from services.engines import open_engines
from services.ports.push_store import DeliveryRow, Fate
from tests.support.bus_servers import announce
from tests.support.servers.postgresql import PostgresqlServer
from tests.support.servers.redis import BusServers


async def test_the_bus_of_the_registry_is_on_the_servers_that_stand_there_apart_from_other_clusters(
    bus_servers: BusServers, tmp_path: Path
) -> None:
    registry = EmbeddedRegistry(SystemClock())
    await announce(registry, *bus_servers.servers)
    heard: list[bytes] = []
    config = Config(engines=EnginesSettings(bus="registry"))

    async with (
        open_engines(config, DataDirectory(tmp_path / "one"), 16, registry, EngineHealth(SystemClock())) as one,
        open_engines(config, DataDirectory(tmp_path / "other"), 16, registry, EngineHealth(SystemClock())) as other,
    ):
        bus, others = await one.bus(), await other.bus()
        await bus.subscribe("t", lambda _, payload: heard.append(payload))
        await others.publish("t", b"of another cluster")
        await bus.publish("t", b"news")

    assert heard == [b"news"]


@pytest.mark.parametrize(
    ("engine", "url"),
    [
        ("bus", "redis+cluster://127.0.0.1:1"),
        ("bus", "registry://127.0.0.1:1"),
        ("bus", "redis+sentinel://127.0.0.1:1"),
        ("cache", "registry"),
        ("cache", "redis+sentinel://127.0.0.1:1"),
        ("cache", "redis+cluster://127.0.0.1:1/2"),
        ("push", "redis://127.0.0.1:1"),
    ],
)
async def test_a_url_that_names_no_such_engine_is_refused(tmp_path: Path, engine: str, url: str) -> None:
    config = Config(engines=EnginesSettings(**{engine: url}))

    async with open_engines(
        config, DataDirectory(tmp_path), 16, EmbeddedRegistry(SystemClock()), EngineHealth(SystemClock())
    ) as engines:
        with pytest.raises(ConfigError, match=f"engines: {engine}"):
            await {"bus": engines.bus, "cache": engines.cache, "push": engines.push_store}[engine]()


async def test_push_keeps_both_of_its_stores_in_one_place(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    row = DeliveryRow("ann", "phone", "p", 1, Fate.ACCEPTED, "", "direct", "d.1", 1, "", 1, 1)
    async with open_engines(
        Config(), data, 16, EmbeddedRegistry(SystemClock()), EngineHealth(SystemClock())
    ) as engines:
        store, log = await engines.push_store(), await engines.delivery_log()
        await asyncio.gather(store.put_mute("ann", "g.1", 0, 1), log.record([row]))

        assert await engines.push_store() is store
        assert await log.read("ann", "phone", None, 1) == [row]
    assert data.database("push").exists()


async def test_several_urls_of_the_directory_are_its_shards(
    tmp_path: Path, postgresql_server: PostgresqlServer
) -> None:
    one, other = postgresql_server.new_database(), postgresql_server.new_database()
    config = Config(engines=EnginesSettings(directory=f"{one} {other}"))
    turned = Config(engines=EnginesSettings(directory=f"{other} {one}"))
    registry, health = EmbeddedRegistry(SystemClock()), EngineHealth(SystemClock())

    async with open_engines(config, DataDirectory(tmp_path), 16, registry, health) as engines:
        await engines.directory()
    async with open_engines(turned, DataDirectory(tmp_path), 16, registry, health) as engines:
        with pytest.raises(ConfigError, match="engines: directory: the database is shard 2 of 2"):
            await engines.directory()
