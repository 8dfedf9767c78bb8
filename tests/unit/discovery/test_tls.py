"""The certificate of a process: its files, its name, and when it is read anew."""

from pathlib import Path

import pytest
import structlog

from discovery.contract import methods
from discovery.errors import Unauthenticated, Unavailable
from discovery.rpc.call import Caller, Role
from discovery.rpc.tls import (
    Credentials,
    PeerName,
    TlsError,
    TlsSettings,
    is_local,
    open_channel,
    open_credentials,
    service_names,
)
from services.certs import Issued
from tests.support.certs import ADMIN, DAY, Pki, named, put
from tests.support.clock import ManualClock


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_every_service_of_the_contract_has_a_name() -> None:
    services = {spec.service.split(".")[1] for spec in methods().values()}

    assert service_names() == services - {"mesh"} | {"hither"}
    assert {"edge", "messaging"} <= service_names()


@pytest.mark.parametrize("name", [named("edge"), named("hither"), named("messaging"), ADMIN])
def test_a_name_is_read_as_it_is_written(name: PeerName) -> None:
    assert PeerName.parse(name.uri) == name


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://test-cluster/service/edge",
        "spiffe://test-cluster/service/kitchen",
        "spiffe://test-cluster/service/mesh",
        "spiffe://test-cluster/user/alice",
        "spiffe://test-cluster/admin/",
        "spiffe://test-cluster/admin/a/b",
        "spiffe:///service/edge",
        "spiffe://test-cluster/service/edge/",
        "spiffe://test-cluster/service/edge\n",
        "spiffe://TEST/service/edge",
        "spiffe://a@test-cluster/service/edge",
        "xspiffe://test-cluster/service/edge",
    ],
)
def test_what_is_no_name_of_ours_names_nobody(uri: str) -> None:
    assert PeerName.parse(uri) is None


def test_a_certificate_gives_the_role_of_its_holder(pki: Pki) -> None:
    credentials = pki.credentials("messaging")

    service = credentials.caller_of({"peer_uri": [named("edge").uri.encode()]})
    admin = credentials.caller_of({"peer_uri": [ADMIN.uri.encode()]})

    assert service == Caller(Role.SERVICE, service="edge")
    assert admin == Caller(Role.ADMIN, service="ops")


@pytest.mark.parametrize(
    "uris", [[], [b"\xff"], [named("edge").uri.encode()] * 2, [named("edge", cluster="other").uri.encode()]]
)
def test_a_certificate_with_no_single_name_of_this_cluster_is_refused(pki: Pki, uris: list[bytes]) -> None:
    with pytest.raises(Unauthenticated) as raised:
        pki.credentials().caller_of({"peer_uri": uris})

    assert raised.value.reason == "BAD_CERTIFICATE"


def test_a_connection_without_a_certificate_is_refused_even_here(pki: Pki) -> None:
    with pytest.raises(Unauthenticated):
        pki.credentials().caller_of({})


# --- settings ---


@pytest.mark.parametrize("given", [{"ca": "x"}, {"cert": "x", "key": "y"}, {"server_name": "x"}])
def test_settings_are_whole_or_absent(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"go together|needs ca"):
        TlsSettings(**given)


def test_without_settings_there_are_no_credentials() -> None:
    assert open_credentials(TlsSettings()) is None


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
def test_a_file_that_is_missing_is_named(pki: Pki, missing: str) -> None:
    settings = pki.write(pki.issue(named("edge")))
    path: str = getattr(settings, missing)
    Path(path).unlink()

    with pytest.raises(TlsError, match=f"{missing}.pem: No such file"):
        Credentials(settings)


@pytest.mark.parametrize("file", ["ca", "cert", "key"])
def test_a_file_that_is_no_pem_is_named_and_its_content_is_not(pki: Pki, file: str) -> None:
    settings = pki.write(pki.issue(named("edge")))
    put(Path(getattr(settings, file)), b"nonsense")

    with pytest.raises(TlsError, match=rf"{file}\.pem: holds no") as raised:
        Credentials(settings)

    assert "nonsense" not in str(raised.value)


def test_a_key_that_does_not_fit_is_refused(pki: Pki) -> None:
    other = pki.issue(named("edge"))
    settings = pki.write(Issued(pki.issue(named("edge")).certificate_pem, other.key_pem))

    with pytest.raises(TlsError, match="not the key of the certificate"):
        Credentials(settings)


def test_a_key_that_everybody_may_read_is_refused(pki: Pki) -> None:
    settings = pki.write(pki.issue(named("edge")))
    Path(settings.key).chmod(0o644)

    with pytest.raises(TlsError, match="everybody may read"):
        Credentials(settings)


@pytest.mark.parametrize("name", [named("kitchen"), named("edge", cluster="A")])
def test_a_process_does_not_start_with_a_certificate_that_names_nobody(pki: Pki, name: PeerName) -> None:
    settings = pki.write(pki.issue(name))

    with pytest.raises(TlsError, match="names nobody"):
        Credentials(settings)


def test_a_process_does_not_start_with_a_certificate_that_ran_out(pki: Pki) -> None:
    settings = pki.write(pki.expired(named("edge")))

    with pytest.raises(TlsError, match="ran out on"):
        Credentials(settings)


# --- read anew ---


def test_files_that_did_not_change_are_not_read_again(pki: Pki) -> None:
    credentials = pki.credentials()

    assert credentials.refresh() == credentials.refresh() == 1


def test_a_change_counts_once_both_halves_of_it_are_there(pki: Pki) -> None:
    settings = pki.write(pki.issue(named("edge")))
    credentials = Credentials(settings)
    renewed = pki.issue(named("edge"))

    put(Path(settings.key), renewed.key_pem)
    with structlog.testing.capture_logs() as half:
        assert credentials.refresh() == 1
        assert credentials.refresh() == 1
    put(Path(settings.cert), renewed.certificate_pem)
    with structlog.testing.capture_logs() as whole:
        assert credentials.refresh() == 2

    assert [line["log_level"] for line in half] == ["warning"]
    assert [line["log_level"] for line in whole] == ["info"]


def test_files_that_went_away_leave_the_old_ones_in_use(pki: Pki) -> None:
    settings = pki.write(pki.issue(named("edge")))
    credentials = Credentials(settings)
    Path(settings.cert).unlink()

    with structlog.testing.capture_logs() as lines:
        assert credentials.refresh() == 1

    assert "cert.pem: No such file" in lines[0]["problem"]


def test_a_process_does_not_change_its_name(pki: Pki) -> None:
    settings = pki.write(pki.issue(named("messaging")))
    credentials = Credentials(settings)
    pki.write(pki.issue(named("edge")))

    assert credentials.refresh() == 1
    assert credentials.name == named("messaging")


def test_a_renewal_moves_the_end(pki: Pki) -> None:
    clock = ManualClock(int((pki.now - 2 * DAY).timestamp() * 1000))
    settings = pki.write(pki.expired(named("edge")))
    credentials = Credentials(settings, clock)
    before = credentials.expires

    pki.write(pki.issue(named("edge")))
    credentials.refresh()

    assert credentials.expires > before


def test_nothing_that_is_shown_or_logged_holds_a_key(pki: Pki) -> None:
    issued = pki.issue(named("edge"))
    settings = pki.write(issued)
    credentials = Credentials(settings)
    with structlog.testing.capture_logs() as lines:
        pki.write(pki.issue(named("edge")))
        credentials.refresh()

    shown = f"{credentials!r} {vars(credentials)!r} {settings!r} {issued!r} {pki.authority!r} {lines!r}"

    assert "key.pem" in shown
    assert "PRIVATE KEY" in issued.key_pem.decode()
    assert "PRIVATE KEY" not in shown


# --- where plaintext may go ---


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/x"])
def test_plaintext_stays_within_the_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "example.com:1", "127.0.0.1.example:1", ""])
async def test_plaintext_goes_nowhere_else(address: str) -> None:
    with pytest.raises(Unavailable, match="no certificate"):
        open_channel(None, address)
