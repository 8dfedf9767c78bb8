"""Certificates for tests: one authority, and what it signs, in a folder of its own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from discovery.rpc.call import Role
from discovery.rpc.tls import Credentials, PeerName, TlsSettings
from services.certs import LOOPBACK, Issued, issue, make_authority
from tests.support.cluster import CLUSTER

DAY = timedelta(days=1)


def named(name: str, role: Role = Role.SERVICE, cluster: str = CLUSTER) -> PeerName:
    """A name in a certificate, known or not."""
    return PeerName(cluster, role, name)


ADMIN = named("ops", Role.ADMIN)


class Pki:
    """An authority. Certificates are written to `folder`, one subfolder each."""

    def __init__(self, folder: Path, cluster: str = CLUSTER) -> None:
        self.folder = folder
        self.now = datetime.now(UTC)
        self.authority = make_authority(cluster, self.now)

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate."""
        return self.authority.certificate.public_bytes(Encoding.PEM)

    def issue(self, name: PeerName, hosts: Sequence[str] = LOOPBACK, *, age: timedelta = timedelta()) -> Issued:
        """A certificate for a day, made `age` ago."""
        return issue(self.authority, name, hosts, DAY, self.now - age)

    def expired(self, name: PeerName) -> Issued:
        """A certificate that has run out."""
        return self.issue(name, age=2 * DAY)

    def of_another_cluster(self, name: PeerName) -> Issued:
        """A certificate by this very authority, for another cluster."""
        return self.issue(replace(name, cluster="other"))

    def write(self, issued: Issued, ca_pem: bytes | None = None, *, folder: str = "own") -> TlsSettings:
        """Writes the files of a process, each in one step, over those that are there."""
        place = self.folder / folder
        place.mkdir(parents=True, exist_ok=True)
        contents = {"ca": ca_pem or self.ca_pem, "key": issued.key_pem, "cert": issued.certificate_pem}
        for name, content in contents.items():
            put(place / f"{name}.pem", content)
        return TlsSettings(**{name: str(place / f"{name}.pem") for name in contents})

    def credentials(self, name: str | PeerName = "edge", hosts: Sequence[str] = LOOPBACK) -> Credentials:
        """What a process holds."""
        peer = named(name) if isinstance(name, str) else name
        return Credentials(self.write(self.issue(peer, hosts), folder=peer.name))

    def channel(self, address: str, issued: Issued | None) -> grpc.aio.Channel:
        """A channel of somebody who believes this authority, and may have a certificate, whatever it says."""
        pair = (issued.key_pem, issued.certificate_pem) if issued else (None, None)
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(self.ca_pem, *pair))


def put(path: Path, content: bytes) -> None:
    """Writes a file in one step, for its owner only."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def serial_of(pem: bytes) -> int:
    """The serial number of a certificate in PEM."""
    return x509.load_pem_x509_certificate(pem).serial_number
