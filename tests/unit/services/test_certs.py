"""Development certificates: what `hither certs` writes, and what it never writes over."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from discovery.rpc.call import Role
from discovery.rpc.tls import Credentials, PeerName, TlsSettings, service_names
from services.certs import CertsError, write_certificates

NOW = datetime.now(UTC).replace(microsecond=0)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def settings(directory: Path, name: str) -> TlsSettings:
    return TlsSettings(str(directory / "ca.pem"), str(directory / f"{name}.pem"), str(directory / f"{name}.key"))


def test_every_name_gets_a_certificate_that_a_process_can_start_with(tmp_path: Path) -> None:
    names = sorted(service_names())
    written = write_certificates(tmp_path, [*names, "admin", "admin-alice"], cluster="blue")

    assert [path.name for path in written] == [f"{name}.pem" for name in [*names, "admin", "admin-alice"]]
    assert [Credentials(settings(tmp_path, name)).name for name in names] == [
        PeerName("blue", Role.SERVICE, name) for name in names
    ]
    assert Credentials(settings(tmp_path, "admin")).name == PeerName("blue", Role.ADMIN, "admin")
    assert Credentials(settings(tmp_path, "admin-alice")).name == PeerName("blue", Role.ADMIN, "alice")


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    write_certificates(tmp_path / "pki", ["edge", "admin"])
    write_certificates(tmp_path / "pki", ["edge"])

    assert {path.name: mode(path) for path in (tmp_path / "pki").glob("*.key")} == {
        "ca.key": 0o600,
        "edge.key": 0o600,
        "admin.key": 0o600,
    }
    assert mode(tmp_path / "pki") == 0o700
    assert not list((tmp_path / "pki").glob("*.new"))


def test_a_certificate_is_a_leaf_of_the_authority_on_p_256_for_ninety_days(tmp_path: Path) -> None:
    [path] = write_certificates(tmp_path, ["edge"], hosts=["edge.example", "10.0.0.7"], now=NOW)
    leaf, authority = read(path), read(tmp_path / "ca.pem")

    leaf.verify_directly_issued_by(authority)
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert leaf.not_valid_after_utc == NOW + timedelta(days=90)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert names_of(leaf).get_values_for_type(x509.DNSName) == ["edge.example"]
    assert [str(address) for address in names_of(leaf).get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


def test_an_operator_is_no_server(tmp_path: Path) -> None:
    [path] = write_certificates(tmp_path, ["admin"], hosts=["edge.example"])
    purposes = read(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert names_of(read(path)).get_values_for_type(x509.DNSName) == []


def test_the_authority_signs_leaves_only_and_its_life_ends(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["edge"], now=NOW)
    authority = read(tmp_path / "ca.pem")

    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert authority.not_valid_after_utc < NOW + timedelta(days=366 * 5)


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["edge"], now=NOW)
    almost_over = read(tmp_path / "ca.pem").not_valid_after_utc - timedelta(days=10)

    [path] = write_certificates(tmp_path, ["edge"], now=almost_over)

    assert read(path).not_valid_after_utc == read(tmp_path / "ca.pem").not_valid_after_utc


def test_a_second_run_keeps_the_authority_and_the_hosts_and_renews_the_rest(tmp_path: Path) -> None:
    [path] = write_certificates(tmp_path, ["edge"], cluster="blue", hosts=["edge.example"])
    authority, leaf, key = (tmp_path / "ca.pem").read_bytes(), read(path), (tmp_path / "edge.key").read_bytes()

    write_certificates(tmp_path, ["edge"])

    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert (tmp_path / "edge.key").read_bytes() != key
    assert read(path).serial_number != leaf.serial_number
    assert names_of(read(path)) == names_of(leaf)


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_half_an_authority_is_not_made_whole_with_another(tmp_path: Path, lost: str) -> None:
    write_certificates(tmp_path, ["edge"])
    (tmp_path / lost).unlink()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(CertsError, match="never overwritten"):
        write_certificates(tmp_path, ["edge"])

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left


def test_an_authority_that_is_none_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("precious")
    (tmp_path / "ca.key").write_text("precious")

    with pytest.raises(CertsError, match="no authority"):
        write_certificates(tmp_path, ["edge"])

    assert (tmp_path / "ca.key").read_text() == "precious"


def test_a_key_of_another_authority_signs_nothing(tmp_path: Path) -> None:
    write_certificates(tmp_path / "one", ["edge"])
    write_certificates(tmp_path / "two", ["edge"])
    (tmp_path / "two" / "ca.key").replace(tmp_path / "one" / "ca.key")

    with pytest.raises(CertsError, match="not the key"):
        write_certificates(tmp_path / "one", ["edge"])


def test_an_authority_is_of_one_cluster(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["edge"], cluster="blue")

    with pytest.raises(CertsError, match="of cluster blue, not green"):
        write_certificates(tmp_path, ["edge"], cluster="green")


def test_an_authority_that_ran_out_signs_nothing(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["edge"], now=NOW - timedelta(days=6 * 365))

    with pytest.raises(CertsError, match="ran out"):
        write_certificates(tmp_path, ["edge"], now=NOW)


@pytest.mark.parametrize("name", ["kitchen", "mesh", "../edge", "admin-", "admin-../x", "", "ca"])
def test_a_name_that_nobody_has_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertsError, match="no such name"):
        write_certificates(tmp_path / "pki", ["edge", name])

    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("cluster", ["", "A", "a b", "a/b", "-"])
def test_a_cluster_has_a_name_that_a_certificate_can_hold(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(CertsError):
        write_certificates(tmp_path / "pki", ["edge"], cluster=cluster)

    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("host", ["", "*.example", "a b", "a..b", "edge:1", "é.example"])
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertsError, match="neither"):
        write_certificates(tmp_path, ["edge"], hosts=[host])
