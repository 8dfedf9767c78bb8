"""The configuration of a process: one frozen value, from a TOML file and `HITHER_*` variables.

A section of the file is the settings of one room: `[edge] frames_per_s = 500`. A variable names section and key:
`HITHER_EDGE_FRAMES_PER_S=500`, and wins over the file. What no setting knows is refused, with its name.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from discovery.rpc.telemetry import TelemetrySettings
from discovery.rpc.tls import TlsSettings
from edge.http_settings import HttpSettings
from edge.settings import EdgeSettings
from services.directory.settings import DirectorySettings
from services.location.live_settings import LiveSettings
from services.location.settings import LocationSettings
from services.messaging.settings import MessagingSettings
from services.presence.settings import PresenceSettings
from services.push.pipeline_settings import PushPipelineSettings, PushPolicySettings
from services.push.providers.settings import PushProviderSettings
from services.push.settings import PushSettings
from services.sessions.settings import SessionsSettings

_PREFIX = "HITHER_"
_MASK = "***"
_URL_PASSWORD = re.compile(r"(://[^/:\s]*:)\S*@")
"""Up to the last "@", for who forgot to write one in a password as %40."""
_OPTION_PASSWORD = re.compile(r"([?&][^=&\s]*password=)[^&\s]*")


class ConfigError(Exception):
    """The configuration cannot be used; the message says which setting and why."""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """The process itself."""

    host: str = "127.0.0.1"
    """Address of the public port."""
    port: int = 8080
    """Public port for HTTP and WebSocket; 0 takes a free one."""
    data: str = ".hither"
    """The data directory: the cluster's id and keys, and the files of embedded engines."""
    behind_tls_proxy: bool = False
    """Says that something in front of a public port off loopback speaks TLS to the clients."""
    partitions: int = 0
    """Partitions of the cluster; fixed for the life of its data. 0: 4 where a process runs whole, since it works in larger
    batches with few; 256 where services run apart."""
    drain_s: float = 5.0
    """How long a stop may take to send clients elsewhere, in seconds."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_json: bool = False
    """Log lines as JSON instead of text."""
    cache_keys: int = 1_000_000
    """Keys that the embedded cache holds at most."""


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """The process's place in the mesh."""

    registry: str = "embedded"
    """Where instances find each other: "embedded" where a process runs whole, else etcd://HOST:PORT[,HOST:PORT...]."""
    registry_user: str = ""
    """User of the registry, if it asks for one."""
    registry_password: str = ""
    """See `registry_user`."""
    registry_ca: str = ""
    """File with the authority of the registry's certificate (PEM). Empty: no TLS to the registry."""
    registry_cert: str = ""
    """File with the certificate that the registry asks for (PEM); empty: none."""
    registry_key: str = ""
    """File with the key of `registry_cert` (PEM)."""
    listen: str = "127.0.0.1:0"
    """Where gRPC is served, as HOST:PORT; port 0 takes a free one."""
    advertise: str = ""
    """Where the others reach it, as HOST:PORT, if that is not where it listens."""
    region: str = ""
    """Region of the data centre."""
    zone: str = ""
    """Zone within the region; calls that no key decides stay in it where they can."""
    weight: int = 100
    """Relative share of partitions, 1 to 1000."""


@dataclass(frozen=True, slots=True)
class EnginesSettings:
    """What the services stand on: "embedded", or the URL of a server."""

    log: str = "embedded"
    """Or kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?replication=3&prefix=NAME&ca=FILE&sasl=SCRAM-SHA-512].
    `prefix` goes before the names of topics, so that several clusters can share a Kafka. `ca` is the file (PEM) with the authority of
    the brokers' certificates, and makes it TLS; a user needs it. `sasl` may be SCRAM-SHA-256 or PLAIN instead."""
    messages: str = "embedded"
    """Or cassandra://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/KEYSPACE[?replication=3&ca=FILE], with `ca` as for `log`."""
    history: str = "embedded"
    """Where users were in the last seven days. Or cassandra://... as for `messages`; both may share a keyspace."""
    devices: str = "embedded"
    """Or postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE, or several of these, separated by spaces: shards by user, whose
    number and order are fixed for the life of the data."""
    live_sessions: str = "devices"
    """Of what is shared live: in the place of the devices (the first, if there are several), or postgresql+asyncpg://... as there."""
    directory: str = "embedded"
    """Or postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE[?replica=HOST:PORT&replica=HOST:PORT...].
    Replicas serve reads that they are recent enough for; the user needs pg_read_all_stats for that.
    Or several of these without replicas, separated by spaces: shards by user, whose number and order are fixed for the life of the
    data, on servers with max_prepared_transactions."""
    privacy: str = "embedded"
    """Or postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE."""
    push: str = "embedded"
    """Where users can be woken up, and what became of pushes. Or postgresql+asyncpg://... as for `privacy`."""
    cache: str = "embedded"
    """Or redis://[USER:PASSWORD@]HOST:PORT[/DB], redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/NAME[/DB], or
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]. With "rediss" for "redis": over TLS."""
    bus: str = "embedded"
    """Or redis:// or redis+sentinel:// as for `cache`; or "registry" (registry://USER:PASSWORD@), for all the servers that
    `hither bus-server` announces there: each has a share of the topics."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    process: ProcessSettings = field(default_factory=ProcessSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    engines: EnginesSettings = field(default_factory=EnginesSettings)
    edge: EdgeSettings = field(default_factory=EdgeSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    messaging: MessagingSettings = field(default_factory=MessagingSettings)
    sessions: SessionsSettings = field(default_factory=SessionsSettings)
    presence: PresenceSettings = field(default_factory=PresenceSettings)
    location: LocationSettings = field(default_factory=LocationSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    push: PushSettings = field(default_factory=PushSettings)
    pushpolicy: PushPolicySettings = field(default_factory=PushPolicySettings)
    pushpipeline: PushPipelineSettings = field(default_factory=PushPipelineSettings)
    providers: PushProviderSettings = field(default_factory=PushProviderSettings)
    directory: DirectorySettings = field(default_factory=DirectorySettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    tls: TlsSettings = field(default_factory=TlsSettings)

    def shown(self) -> dict[str, dict[str, Any]]:
        """The settings for the log, with passwords masked. Keys are no settings: they live in files of their own."""
        return {
            section: {key: _masked(key, value) for key, value in values.items()}
            for section, values in asdict(self).items()
        }


def load_config(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Mapping[str, object]]
) -> Config:
    """The configuration from a TOML file (if given), then the environment, then the command line (`overrides`, by section).
    Raises ConfigError.
    """
    sections: dict[str, dict[str, Any]] = {section.name: {} for section in fields(Config)}
    if file is not None:
        _merge_file(sections, file)
    _merge_environment(sections, environment)
    for name, values in overrides.items():
        sections[name].update(values)
    return Config(
        **{section.name: _section(section.type, section.name, sections[section.name]) for section in fields(Config)}
    )


def _merge_file(sections: dict[str, dict[str, Any]], file: Path) -> None:
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    for name, values in content.items():
        if name not in sections or not isinstance(values, dict):
            raise ConfigError(f"{file}: no section [{name}]; there are {', '.join(sections)}")
        sections[name].update(values)


def _merge_environment(sections: dict[str, dict[str, Any]], environment: Mapping[str, str]) -> None:
    for variable, value in environment.items():
        if not variable.startswith(_PREFIX):
            continue
        section, _, key = variable.removeprefix(_PREFIX).lower().partition("_")
        if section in sections:
            sections[section][key] = value
        elif section not in ("require", "test"):  # these speak to the tests
            raise ConfigError(f"{variable}: no section {section}; there are {', '.join(sections)}")


def _masked(key: str, value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    if key.endswith("password"):
        return _MASK
    return _OPTION_PASSWORD.sub(rf"\g<1>{_MASK}", _URL_PASSWORD.sub(rf"\g<1>{_MASK}@", value))


def _section(kind: Any, name: str, values: dict[str, Any]) -> Any:
    known = {setting.name for setting in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"{name}: no setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error
