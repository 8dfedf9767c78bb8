"""The compose file is one, and what it says to Hither Hither understands."""

import re

import pytest
import yaml
from compose_spec import PyCompose

from services.catalogue import NAMES
from services.config import Config
from tests.support.deployment import DEPLOY, compose_services, composed, configured, dialled, parsed, serving

TEXT = (DEPLOY / "compose.yaml").read_text()
SERVICES = compose_services()
HITHER = {name: service for name, service in SERVICES.items() if service["image"].startswith("hither:")}
SERVING = serving()


def settings(name: str) -> Config:
    return configured(SERVICES[name]["environment"])


def test_the_file_is_a_compose_file() -> None:
    assert set(PyCompose.from_yaml(yaml.safe_dump(composed(TEXT))).service_names()) == set(SERVICES)


def test_what_is_no_compose_file_would_be_found() -> None:
    wrong = TEXT.replace("stop_grace_period:", "stop_grace:")
    assert wrong != TEXT
    with pytest.raises(ValueError, match="stop_grace"):
        PyCompose.from_yaml(yaml.safe_dump(composed(wrong)))


def test_every_service_of_hither_has_a_container_and_there_are_two_edges() -> None:
    commands = [service["command"] for service in SERVING.values()]
    assert sorted(command[1] for command in commands if command[0] == "serve") == sorted(NAMES)
    assert commands.count(["edge"]) == 2


def test_images_have_versions() -> None:
    for name in SERVICES.keys() - HITHER.keys():
        assert re.search(r":v?\d+\.\d+\.?\S*$", SERVICES[name]["image"]), name


@pytest.mark.parametrize("name", HITHER)
def test_hither_takes_the_command(name: str) -> None:
    parsed(HITHER[name]["command"])


@pytest.mark.parametrize("name", SERVING)
def test_hither_takes_every_variable(name: str) -> None:
    assert all(isinstance(value, str) for value in SERVING[name]["environment"].values())
    settings(name)


@pytest.mark.parametrize("name", SERVING)
def test_what_a_process_dials_is_there(name: str) -> None:
    reachable = {f"{host}:{port}" for host, service in SERVICES.items() for port in service.get("expose", ())}
    assert dialled(settings(name)) <= reachable
    assert set(SERVING[name]["depends_on"]) >= {address.partition(":")[0] for address in dialled(settings(name))}


@pytest.mark.parametrize("name", SERVING)
def test_a_process_is_found_where_it_listens(name: str) -> None:
    config, exposed = settings(name), SERVING[name]["expose"]
    host, _, port = config.mesh.advertise.partition(":")
    assert host == name
    assert config.mesh.listen == f"0.0.0.0:{port}"
    assert port in exposed


@pytest.mark.parametrize("name", SERVING)
def test_the_health_check_asks_where_a_process_answers(name: str) -> None:
    config, service = settings(name), SERVING[name]
    edge = service["command"] == ["edge"]
    port = config.process.port if edge else config.telemetry.metrics_port
    assert f"http://127.0.0.1:{port}/readyz" in service["healthcheck"]["test"][-1]
    assert str(port) in service["expose"]


@pytest.mark.parametrize("name", SERVING)
def test_a_process_has_a_certificate_of_its_own_name_that_covers_how_it_is_dialled(name: str) -> None:
    tls, kind = settings(name).tls, SERVING[name]["command"][-1]
    made = parsed(SERVICES["certificates"]["command"]).params
    assert kind in made["names"]
    assert tls.server_name in made["hosts"]
    assert (tls.ca, tls.cert, tls.key) == (
        f"{made['out']}/ca.pem",
        f"{made['out']}/{kind}.pem",
        f"{made['out']}/{kind}.key",
    )


def test_keys_are_made_where_processes_look_for_them_and_may_not_be_changed_there() -> None:
    made = parsed(SERVICES["keys"]["command"]).params
    assert {settings(name).process.data for name in SERVING} == {str(made["data"])}
    assert all(f"data:{made['data']}:ro" in service["volumes"] for service in SERVING.values())


def test_a_stop_is_given_the_time_that_it_may_take() -> None:
    for name, service in SERVING.items():
        assert int(service["stop_grace_period"].removesuffix("s")) > 3 * settings(name).process.drain_s, name


@pytest.mark.parametrize("name", ["edge-1", "edge-2"])
def test_an_edge_may_open_a_file_for_each_connection(name: str) -> None:
    assert SERVING[name]["ulimits"]["nofile"]["soft"] > settings(name).edge.max_connections


def test_nothing_listens_off_the_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_without_the_profile_only_the_servers_start() -> None:
    assert all(service["profiles"] == ["hither"] for service in HITHER.values())
    assert not [name for name, service in SERVICES.items() if name not in HITHER and "profiles" in service]


def test_the_image_listens_where_processes_do() -> None:
    exposed = re.findall(r"^EXPOSE (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[-1].split()
    used = {port for service in SERVING.values() for port in service["expose"]}
    assert set(exposed) == used
