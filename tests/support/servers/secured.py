"""A server that speaks TLS and lets in one user."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from tests.support.certs import Pki, named

STORE_PASSWORD = "store-password"


@dataclass(frozen=True, slots=True)
class Secured:
    """A server's certificate for loopback, the authority that signed it, and who is let in."""

    ca: Path
    certificate: bytes
    key: bytes
    user: str = "hither"
    password: str = "p@ss:w/rd"

    @property
    def account(self) -> str:
        """For a URL: "user:password@"."""
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"

    def write_pem(self, path: Path) -> None:
        """The key and its certificate, as Kafka takes them."""
        path.write_bytes(self.key + self.certificate)

    def write_pkcs12(self, path: Path) -> None:
        """The same as Java's own stores are, under STORE_PASSWORD."""
        key, certificate = load_pem_private_key(self.key, None), x509.load_pem_x509_certificate(self.certificate)
        assert isinstance(key, EllipticCurvePrivateKey)
        sealed = BestAvailableEncryption(STORE_PASSWORD.encode())
        path.write_bytes(serialize_key_and_certificates(b"server", key, certificate, None, sealed))


def secured(folder: Path) -> Secured:
    """With an authority of its own, in this folder."""
    pki = Pki(folder)
    issued = pki.issue(named("hither"))
    ca = folder / "ca.pem"
    ca.write_bytes(pki.ca_pem)
    return Secured(ca, issued.certificate_pem, issued.key_pem)
