"""Opens the registry that the configuration names."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from discovery.clock import Clock
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Registry
from discovery.rpc.tls import Credentials
from services.config import ConfigError, MeshSettings

EMBEDDED = "embedded"


def _endpoints(settings: MeshSettings) -> list[str]:
    """Where the registry answers, each as HOST:PORT. Raises ConfigError."""
    parts = urlsplit(settings.registry)
    if parts.scheme not in ("etcd", "grpc") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(
            f"mesh: registry is {EMBEDDED!r}, etcd://HOST:PORT[,HOST:PORT...] or grpc://HOST:PORT, not {settings.registry}"
        )
    return parts.netloc.split(",")


def _read(settings: MeshSettings, name: str) -> bytes | None:
    path: str = getattr(settings, name)
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise ConfigError(f"mesh: {name}: {error}") from error


@asynccontextmanager
async def open_registry(
    settings: MeshSettings,
    cluster: str,
    clock: Clock,
    token: Callable[[], str] | None = None,
    credentials: Credentials | None = None,
) -> AsyncIterator[Registry]:
    """The registry, for the time of the block. `token` or `credentials` prove who asks a registry that another process of
    ours serves. Raises ConfigError.
    """
    registry: Registry
    if settings.registry == EMBEDDED:
        registry = EmbeddedRegistry(clock)
    elif settings.registry.startswith("grpc://"):
        from discovery.registry.remote import RemoteRegistry

        registry = RemoteRegistry(_endpoints(settings)[0], token, credentials=credentials)
    else:
        from discovery.registry.etcd.endpoints import EtcdTls
        from discovery.registry.etcd.registry import EtcdRegistry  # only a process of several loads the client

        tls = None
        if settings.registry_ca:
            read = partial(_read, settings)
            tls = EtcdTls(read("registry_ca"), read("registry_cert"), read("registry_key"))
        user, password = settings.registry_user, settings.registry_password
        registry = await EtcdRegistry.open(_endpoints(settings), cluster, tls=tls, user=user, password=password)
    try:
        yield registry
    finally:
        await registry.close()
