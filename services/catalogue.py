"""The services by name, and how each is put together from a mesh and its engines."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from discovery.clock import Clock
from discovery.ids import Snowflakes
from discovery.mesh import Mesh
from services.config import Config, ConfigError
from services.data_directory import DataDirectory
from services.directory.service import Directory
from services.directory.tokens import TokenIssuer
from services.engines import EMBEDDED, Engines
from services.location.live_service import Live
from services.location.nearby_service import Nearby
from services.location.service import Location
from services.messaging.service import Messaging
from services.ports.push_store import Platform
from services.presence.service import Presence
from services.push.pipeline import PushPipeline
from services.push.providers.keys import ProviderSettingsError
from services.push.providers.opening import open_providers
from services.push.providers.web import WebPushProvider
from services.push.service import Push
from services.push.unread import MessagingUnread
from services.sessions.service import Sessions


class Service(Protocol):
    """What a process needs of a service: its servicer, the background work that it owns, and what is wrong with it."""

    @property
    def servicer(self) -> object:
        """Answers the service's RPCs."""

    async def run(self) -> None:
        """Works until cancelled; raises when a part of it dies."""


@runtime_checkable
class HandsOver(Protocol):
    """A service whose partitions take something along when they move."""

    async def handed_over(self) -> None:
        """Returns when nothing is left here of what this process does not own any more."""


@runtime_checkable
class TellsHealth(Protocol):
    """A service that can be unwell while it runs."""

    def health(self) -> Iterable[object]:
        """What is wrong now; empty if all is well."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What services are made from."""

    mesh: Mesh
    engines: Engines
    data: DataDirectory
    snowflakes: Snowflakes
    config: Config
    clock: Clock


async def _directory(wiring: Wiring) -> Service:
    issuer = TokenIssuer(wiring.data.keys.signing_pem, wiring.data.cluster, wiring.clock)
    store, bus = await wiring.engines.directory(), await wiring.engines.bus()
    return Directory(wiring.mesh, store, bus, issuer, wiring.snowflakes, wiring.clock, wiring.config.directory)


async def _sessions(wiring: Wiring) -> Service:
    cache, devices, bus = await wiring.engines.cache(), await wiring.engines.devices(), await wiring.engines.bus()
    live_sessions = await wiring.engines.live_sessions()
    return Sessions(wiring.mesh, cache, devices, live_sessions, bus, wiring.clock, wiring.config.sessions)


async def _messaging(wiring: Wiring) -> Service:
    log, messages, bus = await wiring.engines.log(), await wiring.engines.messages(), await wiring.engines.bus()
    # An embedded cache holds what this process remembers anyway.
    shared = await wiring.engines.cache() if wiring.config.engines.cache != EMBEDDED else None
    settings = wiring.config.messaging
    return Messaging(wiring.mesh, log, messages, bus, wiring.snowflakes, wiring.clock, settings, shared)


async def _presence(wiring: Wiring) -> Service:
    cache, bus = await wiring.engines.cache(), await wiring.engines.bus()
    privacy = await wiring.engines.privacy()
    return Presence(wiring.mesh, cache, bus, privacy, wiring.clock, wiring.config.presence)


async def _location(wiring: Wiring) -> Service:
    cache, bus = await wiring.engines.cache(), await wiring.engines.bus()
    privacy, history = await wiring.engines.privacy(), await wiring.engines.history()
    view_log = await wiring.engines.view_log()
    settings = wiring.config.location
    nearby = Nearby(wiring.mesh, cache, bus, privacy, history, view_log, wiring.clock, settings)
    return Location(nearby, Live(wiring.mesh, cache, bus, wiring.clock, wiring.config.live, history))


async def _push(wiring: Wiring) -> Service:
    store, delivery_log = await wiring.engines.push_store(), await wiring.engines.delivery_log()
    log, config = await wiring.engines.log(), wiring.config
    try:
        providers = open_providers(config.providers, wiring.clock)
    except ProviderSettingsError as error:
        raise ConfigError(f"providers: {error}") from error
    unread = MessagingUnread(wiring.mesh, config.pushpipeline.unread_timeout_s)
    pipeline = PushPipeline(
        wiring.mesh,
        log,
        store,
        delivery_log,
        providers,
        unread,
        wiring.clock,
        config.pushpolicy,
        config.pushpipeline,
    )
    web = providers.get(Platform.WEB)
    key = web.application_server_key if isinstance(web, WebPushProvider) else ""
    return Push(store, delivery_log, pipeline, providers.values(), wiring.clock, config.push, key)


_MAKERS: Mapping[str, Callable[[Wiring], Awaitable[Service]]] = MappingProxyType(
    {
        "directory": _directory,
        "sessions": _sessions,
        "messaging": _messaging,
        "presence": _presence,
        "location": _location,
        "push": _push,
    }
)
NAMES = tuple(_MAKERS)
"""The services that a process can be."""


async def make_service(name: str, wiring: Wiring) -> Service:
    """The service of that name (one of NAMES), with its engines open and its servicer in the mesh's dispatcher."""
    service = await _MAKERS[name](wiring)
    wiring.mesh.dispatcher.add(service.servicer, f"hither.{name}.v1.{name.title()}Service")
    return service
