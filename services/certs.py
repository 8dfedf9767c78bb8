"""A development authority and the certificates that it signs: what `hither certs` writes.

    DIR/ca.pem      certificate of the authority, for every process's `ca`
    DIR/ca.key      its private key (0600); needed only to make certificates
    DIR/NAME.pem    certificate of a process or an operator
    DIR/NAME.key    its private key (0600)

Names are written as discovery/rpc/tls.py reads them. An authority is of one cluster and is never overwritten; certificates are
made anew, with new keys, each time that they are asked for. Keys are never readable by others, not even for the
moment between making and writing them.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from discovery.rpc.call import Role
from discovery.rpc.tls import PeerName, service_names

DEFAULT_CLUSTER: Final = "hither"
DEFAULT_DAYS: Final = 90
MOST_DAYS: Final = 825
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""Hosts of a certificate for which none are named."""

_AUTHORITY_DAYS: Final = 5 * 365
_ADMIN: Final = "admin"
_BACKDATED: Final = timedelta(minutes=5)
"""Lets a machine whose clock is a little late take a new certificate."""


class CertsError(Exception):
    """The certificates cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs the certificates of a cluster."""

    cluster: str
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, in PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def write_certificates(
    directory: Path,
    names: Sequence[str],
    *,
    cluster: str | None = None,
    hosts: Sequence[str] = (),
    days: int = DEFAULT_DAYS,
    now: datetime | None = None,
) -> list[Path]:
    """Writes a certificate and a key for each name; returns the paths of the certificates. A directory without an authority
    gets one, of `cluster` ("hither" by default). `hosts` are the names and addresses at which a process is reached; without any,
    a certificate keeps those of the one that it replaces, and otherwise gets those of loopback.

    Raises CertsError: a name that no process or operator has, a host that is none, an authority of another cluster, one that
    has run out, or half of one.
    """
    now = now or datetime.now(UTC)
    wanted = [(name, peer_name(name, DEFAULT_CLUSTER if cluster is None else cluster)) for name in names]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = _open_authority(directory, cluster, now)
        written = []
        for name, peer in wanted:
            path = directory / f"{name}.pem"
            peer = PeerName(authority.cluster, peer.role, peer.name)
            at = (hosts or _hosts_of(path)) if peer.role is Role.SERVICE else ()
            issued = issue(authority, peer, at, timedelta(days=days), now)
            # A process that looks between the two finds a key that does not fit, and keeps the old pair.
            _replace(directory / f"{name}.key", issued.key_pem, 0o600)
            _replace(path, issued.certificate_pem, 0o644)
            written.append(path)
    except OSError as error:
        raise CertsError(str(error)) from error
    return written


def peer_name(name: str, cluster: str) -> PeerName:
    """What a name on the command line stands for: a service, `edge`, `hither`, `admin`, or `admin-WHO` for an operator of that
    name. Raises CertsError for any other.
    """
    if name == _ADMIN or name.startswith(f"{_ADMIN}-"):
        role, held = Role.ADMIN, name.removeprefix(f"{_ADMIN}-")
    else:
        role, held = Role.SERVICE, name
    found = PeerName.parse(PeerName(cluster, role, held).uri)
    if found is None:
        known = ", ".join(sorted(service_names()))
        raise CertsError(f"{name} in {cluster}: no such name; there are {known}, admin and admin-WHO")
    return found


def make_authority(cluster: str, now: datetime) -> Authority:
    """A new authority, good for five years."""
    key = generate_private_key(SECP256R1())
    subject = _subject(f"{cluster} development authority")
    builder = (
        _builder(subject, subject, key, now, timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([_cluster_uri(cluster)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(cluster, builder.sign(key, SHA256()), key)


def issue(authority: Authority, name: PeerName, hosts: Sequence[str], life: timedelta, now: datetime) -> Issued:
    """A certificate for the name, with a new key, that does not outlive its authority. Only a SERVICE's lets its holder be a
    server. Raises CertsError for a host that is neither a name nor an address.
    """
    key = generate_private_key(SECP256R1())
    life = min(life, authority.certificate.not_valid_after_utc - now)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if name.role is Role.SERVICE:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    names = [x509.UniformResourceIdentifier(name.uri), *(_host(host) for host in hosts)]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(_subject(name.name), authority.certificate.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer, critical=False)
    )
    return Issued(builder.sign(authority.key, SHA256()).public_bytes(Encoding.PEM), key_pem(key))


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """The private key in PEM: PKCS #8 without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _open_authority(directory: Path, cluster: str | None, now: datetime) -> Authority:
    certificate, key = directory / "ca.pem", directory / "ca.key"
    if certificate.exists() != key.exists():
        raise CertsError(f"{directory} has only one of ca.pem and ca.key; an authority is never overwritten")
    if not certificate.exists():
        authority = make_authority(DEFAULT_CLUSTER if cluster is None else cluster, now)
        _create(key, key_pem(authority.key), 0o600)
        _create(certificate, authority.certificate.public_bytes(Encoding.PEM), 0o644)
        return authority
    authority = _read_authority(certificate, key)
    if cluster is not None and cluster != authority.cluster:
        raise CertsError(f"the authority in {directory} is of cluster {authority.cluster}, not {cluster}")
    if authority.certificate.not_valid_after_utc <= now:
        raise CertsError(f"{certificate} ran out; make a new authority in another directory")
    return authority


def _read_authority(certificate_path: Path, key_path: Path) -> Authority:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), password=None)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        [uri] = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, TypeError, x509.ExtensionNotFound):
        raise CertsError(f"{certificate_path} and ca.key are no authority that `hither certs` made") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertsError(f"{key_path} is not the key of {certificate_path.name}")
    return Authority(uri.removeprefix("spiffe://"), certificate, key)


def _hosts_of(path: Path) -> Sequence[str]:
    try:
        old = x509.load_pem_x509_certificate(path.read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        return LOOPBACK
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses] or LOOPBACK


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not host or not all(part.isascii() and part.replace("-", "").isalnum() for part in host.split(".")):
        raise CertsError(f"{host!r} is neither a host name nor an address")
    return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _cluster_uri(cluster: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"spiffe://{cluster}")


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _create(path: Path, content: bytes, mode: int) -> None:
    """Writes a file that must not be there yet."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), content)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Writes a file whole, in one step, whether it was there or not."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    _create(fresh, content, mode)
    fresh.replace(path)


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
