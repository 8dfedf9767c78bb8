"""mTLS between processes: this process's certificate, what a peer's certificate says about it, and both read anew.

Off loopback nothing travels without it: a server asks for a certificate of the cluster's authority, and whoever comes
without one gets no further than the handshake. On loopback and unix sockets it may be left out.

**Names.** A certificate names its holder in its one URI among the subject alternative names, which is a SPIFFE id:

    spiffe://<cluster>/service/<name>   a process: `edge`, `hither` (one that runs whole), or a service of the contract
    spiffe://<cluster>/admin/<name>     an operator, by any name

The process's own certificate says which cluster it belongs to; a peer of another is refused, even under the same authority.
The name gives the caller's role, SERVICE or ADMIN, and the role is what `access` is checked against (identity.py says
for whom a process may speak). Health and reflection ask for no name: a certificate of the authority is enough for them.

**Checks.** A server's certificate must cover the host that was dialled (or `server_name`, if that is set, wherever it
listens), and its extended key usage must allow servers: an operator's certificate cannot pose as a process. When it has run out,
new connections fail; those that stand go on until their channel is made anew.

**Rotation.** The files are looked at again whenever a connection comes in or a call goes out. New connections use what is there
then. A change that does not hold (a key that does not fit its certificate, since only one of the two is written yet) leaves the
old ones in use and is logged. To change the authority: put the old one and the new one into every `ca`, then change the
certificates, then take the old one out.

Private keys are never logged, and a key file that others than its owner and group can read is refused.
"""

import ipaddress
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from discovery.clock import Clock, SystemClock
from discovery.contract import methods
from discovery.errors import Unauthenticated, Unavailable
from discovery.rpc.call import Caller, Role

WHOLE: Final = "hither"
"""What a process is called that is every service and an edge."""

_ID: Final = re.compile(
    r"spiffe://(?P<cluster>[a-z0-9][a-z0-9._-]{0,254})/(?P<kind>service|admin)/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,62})"
)
_PACKAGE: Final = re.compile(r"hither\.(?P<name>\w+)\.v\d+\.\w+")
_OF_EVERY_PROCESS: Final = "mesh"
_URI: Final = "peer_uri"
"""The property of gRPC's auth context that holds the URIs of a peer's certificate, after it was verified."""

log = structlog.get_logger(__name__)

ChannelOptions = Sequence[tuple[str, str | int]]
_Fingerprint = tuple[tuple[int, int, int], ...]


class TlsError(ValueError):
    """The certificates cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files of a process's certificate, in PEM. All three or none; ValueError otherwise."""

    ca: str = ""
    """Certificates of the authorities that are believed; several while the authority changes."""
    cert: str = ""
    """This process's certificate, and those between it and the authority."""
    key: str = ""
    """Its private key, without a passphrase, not readable by all."""
    server_name: str = ""
    """The name that servers' certificates must cover, whatever their address is; empty: the host of the address."""

    def __post_init__(self) -> None:
        given = [name for name in ("ca", "cert", "key") if getattr(self, name)]
        if len(given) not in (0, 3):
            raise ValueError(f"ca, cert and key go together; only {', '.join(given)} is set")
        if self.server_name and not given:
            raise ValueError("server_name needs ca, cert and key")

    @property
    def is_set(self) -> bool:
        """Whether there are certificates."""
        return bool(self.ca)


@dataclass(frozen=True, slots=True)
class PeerName:
    """What a certificate says its holder is: a SERVICE or an ADMIN of a cluster, by name."""

    cluster: str
    role: Role
    name: str

    @classmethod
    def parse(cls, uri: str) -> "PeerName | None":
        """The name that a URI is; None if it is none of ours, or a service that is not in the contract."""
        found = _ID.fullmatch(uri)
        if found is None:
            return None
        if found["kind"] == "admin":
            return cls(found["cluster"], Role.ADMIN, found["name"])
        if found["name"] not in service_names():
            return None
        return cls(found["cluster"], Role.SERVICE, found["name"])

    @property
    def uri(self) -> str:
        """The name as it stands in a certificate."""
        return f"spiffe://{self.cluster}/{'admin' if self.role is Role.ADMIN else 'service'}/{self.name}"

    @property
    def caller(self) -> Caller:
        """The holder as a caller in its own name."""
        return Caller(self.role, service=self.name)


@cache
def service_names() -> frozenset[str]:
    """The processes that a certificate can name: the services of the contract, `edge`, and `hither`."""
    packages = {found["name"] for spec in methods().values() if (found := _PACKAGE.fullmatch(spec.service))}
    return frozenset(packages - {_OF_EVERY_PROCESS} | {WHOLE})


@dataclass(frozen=True, slots=True)
class _Material:
    """The files' contents at one time, checked."""

    ca_pem: bytes = field(repr=False)
    cert_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    name: PeerName
    expires: datetime


class Credentials:
    """The certificate of this process, read anew when its files change. May be used from any thread, as gRPC's do.

    Raises TlsError if a file cannot be read, if the key does not fit the certificate or is readable by all, or if the
    certificate names nobody, or has run out.
    """

    def __init__(self, settings: TlsSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._seen = _fingerprint(settings)
        self._material = _load(settings, self._clock)
        self._generation = 1

    @property
    def name(self) -> PeerName:
        """What this process's certificate says that it is."""
        return self._material.name

    @property
    def expires(self) -> datetime:
        """When the certificate in use runs out."""
        return self._material.expires

    def refresh(self) -> int:
        """Reads the files if they have changed. Returns a number that grows whenever other certificates came into use."""
        return self._current()[0]

    def server(self) -> grpc.ServerCredentials:
        """What a server listens with: it asks every client for a certificate, and looks at the files for every connection."""
        served, material = self._current()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            generation, material = self._current()
            if generation == served:
                return None
            served = generation
            return _configuration(material)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(material),
            fetch,  # type: ignore[arg-type] # None says that nothing has changed; the stubs do not know it
            require_client_authentication=True,
        )

    def open_channel(self, address: str, options: ChannelOptions = ()) -> grpc.aio.Channel:
        """A channel to host:port with the certificates that are in use now; it keeps them for life."""
        material = self._current()[1]
        if self._settings.server_name:
            options = (*options, ("grpc.ssl_target_name_override", self._settings.server_name))
        credentials = grpc.ssl_channel_credentials(material.ca_pem, material.key_pem, material.cert_pem)
        return grpc.aio.secure_channel(address, credentials, options=options)

    def caller_of(self, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """Whom the verified certificate of a connection names. Raises Unauthenticated (BAD_CERTIFICATE) if it names nobody
        that we know, more than one, or somebody of another cluster.
        """
        uris = [uri.decode("ascii", "replace") for uri in auth_context.get(_URI, ())]
        name = PeerName.parse(uris[0]) if len(uris) == 1 else None
        if name is None:
            raise Unauthenticated("the certificate names nobody that this cluster knows", reason="BAD_CERTIFICATE")
        if name.cluster != self.name.cluster:
            raise Unauthenticated("the certificate is of another cluster", reason="BAD_CERTIFICATE")
        return name.caller

    def _current(self) -> tuple[int, _Material]:
        with self._lock:
            # Taken before the files are read: a change in between is seen the next time.
            seen = _fingerprint(self._settings)
            if seen != self._seen:
                self._seen = seen
                self._reload()
            return self._generation, self._material

    def _reload(self) -> None:
        try:
            material = _load(self._settings, self._clock)
        except TlsError as error:
            log.warning("certificates that do not hold: the old ones stay in use", problem=str(error))
            return
        if material.name != self._material.name:
            log.warning("a certificate of another name: the old one stays in use", name=material.name.uri)
            return
        self._material = material
        self._generation += 1
        log.info("certificates read anew", name=material.name.uri, expires=material.expires.isoformat())


def open_credentials(settings: TlsSettings) -> Credentials | None:
    """The credentials that the settings name; None without any. Raises TlsError."""
    return Credentials(settings) if settings.is_set else None


def open_channel(credentials: Credentials | None, address: str, options: ChannelOptions = ()) -> grpc.aio.Channel:
    """A channel to host:port: with the credentials, or in plaintext without them. Raises Unavailable (NO_OWNER) rather than
    send plaintext, and the token in it, off loopback.
    """
    if credentials is not None:
        return credentials.open_channel(address, options)
    if not is_local(address):
        raise Unavailable(f"{address} is not loopback, and this process has no certificate", reason="NO_OWNER")
    return grpc.aio.insecure_channel(address, options=options)


def is_local(address: str) -> bool:
    """Whether host:port (or unix:path) stays within this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key_pem, material.cert_pem)], material.ca_pem)


def _fingerprint(settings: TlsSettings) -> _Fingerprint:
    """Changes when a file is replaced or written, or a link leads elsewhere."""
    return tuple(_identity(path) for path in (settings.ca, settings.cert, settings.key))


def _identity(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # for every call: Path takes three times as long
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _load(settings: TlsSettings, clock: Clock) -> _Material:
    ca_pem, cert_pem, key_pem = (_read(path) for path in (settings.ca, settings.cert, settings.key))
    _certificates(settings.ca, ca_pem)
    leaf = _certificates(settings.cert, cert_pem)[0]
    _check_key(settings.key, key_pem, leaf)
    if leaf.not_valid_after_utc <= datetime.fromtimestamp(clock.now_ms() / 1000, UTC):
        raise TlsError(f"{settings.cert}: ran out on {leaf.not_valid_after_utc:%Y-%m-%d}")
    return _Material(ca_pem, cert_pem, key_pem, _name(settings.cert, leaf), leaf.not_valid_after_utc)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error


def _certificates(path: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise TlsError(f"{path}: holds no certificate in PEM") from None


def _check_key(path: str, pem: bytes, leaf: x509.Certificate) -> None:
    if Path(path).stat().st_mode & stat.S_IRWXO:
        raise TlsError(f"{path}: everybody may read this private key; chmod o= it")
    try:
        public = load_pem_private_key(pem, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TlsError(f"{path}: holds no private key in PEM without a passphrase") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise TlsError(f"{path}: is not the key of the certificate")


def _name(path: str, leaf: x509.Certificate) -> PeerName:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    name = PeerName.parse(uris[0]) if len(uris) == 1 else None
    if name is None:
        raise TlsError(f"{path}: names nobody: it needs one URI such as spiffe://CLUSTER/service/edge")
    return name
