"""Opens the registry that the configuration names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from discovery.clock import Clock
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Registry
from services.config import ConfigError, MeshSettings

EMBEDDED = "embedded"


def endpoints_of(settings: MeshSettings) -> list[str]:
    """The etcd endpoints, each as HOST:PORT. Raises ConfigError."""
    parts = urlsplit(settings.registry)
    if parts.scheme != "etcd" or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"mesh: registry is {EMBEDDED!r} or etcd://HOST:PORT[,HOST:PORT...], not {settings.registry}")
    return parts.netloc.split(",")


@asynccontextmanager
async def open_registry(settings: MeshSettings, cluster: str, clock: Clock) -> AsyncIterator[Registry]:
    """The registry, for the time of the block. Raises ConfigError."""
    registry: Registry
    if settings.registry == EMBEDDED:
        registry = EmbeddedRegistry(clock)
    else:
        from discovery.registry.etcd.registry import EtcdRegistry  # only a process of several loads the client

        registry = await EtcdRegistry.open(endpoints_of(settings), cluster)
    try:
        yield registry
    finally:
        await registry.close()
