"""The manifests are what Kubernetes takes, and what they say to Hither Hither understands."""

import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from discovery.rpc.tls import service_names
from services.catalogue import NAMES
from services.config import Config, ConfigError
from services.data_directory import DataDirectory
from services.planning.costs import load_costs
from services.planning.sizing import PROCESSES, plan
from services.planning.workload import Workload
from tests.support.deployment import DEPLOY, configured, dialled, parsed, rendered
from tests.support.servers.process import ServerMissing

Manifest = dict[str, Any]
KINDS = ("edge", *NAMES)
FILES = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
OLDEST = "1.30"
FOR_PUSH = {"hither-push", "hither-push-keys"}
FROM_OUTSIDE = {"hither-keys", "hither-signing", *FOR_PUSH, *(f"hither-cert-{kind}" for kind in KINDS)}


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return shown("base")


@pytest.fixture(scope="module")
def trial() -> list[Manifest]:
    return shown("trial")


def shown(folder: str) -> list[Manifest]:
    try:
        return rendered(folder)
    except ServerMissing as missing:
        if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pod(manifests: list[Manifest], name: str) -> Manifest:
    found: Manifest = of_kind(manifests, "Deployment")[name]["spec"]["template"]["spec"]
    return found


def container(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = pod(manifests, name)["containers"]
    return dict(found)


def environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """What a pod's process finds in its environment; Secrets that are made by hand are missing."""
    maps = {key: each.get("data", {}) for key, each in of_kind(manifests, "ConfigMap").items()}
    secrets = {
        key: {variable: decoded(value) for variable, value in each["data"].items()}
        for key, each in of_kind(manifests, "Secret").items()
    }
    found: dict[str, str] = {}
    for source in container(manifests, name)["envFrom"]:
        found |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
        found |= secrets.get(source["secretRef"]["name"], {}) if "secretRef" in source else {}
    found |= {each["name"]: each["value"] for each in container(manifests, name)["env"] if "value" in each}
    return {variable: value.replace("$(POD_IP)", "10.0.0.7") for variable, value in found.items()}


def decoded(value: str) -> str:
    text: str = yaml.safe_load(f"!!binary {json.dumps(value)}").decode()
    return text


def settings(manifests: list[Manifest], name: str) -> Config:
    return configured(environment(manifests, name))


def ports(manifests: list[Manifest], name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(manifests, name)["ports"]}


def volume(manifests: list[Manifest], name: str, wanted: str) -> Manifest:
    return next(dict(each) for each in pod(manifests, name)["volumes"] if each["name"] == wanted)


def mounted_at(manifests: list[Manifest], name: str, wanted: str) -> str:
    mount = next(each for each in container(manifests, name)["volumeMounts"] if each["name"] == wanted)
    assert mount["readOnly"]
    return str(mount["mountPath"])


def mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_file_is_yaml(file: Path) -> None:
    assert all(yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize("folder", ["base", "trial"])
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_manifest_is_one_that_kubernetes_takes(folder: str, version: str, request: pytest.FixtureRequest) -> None:
    manifests: list[Manifest] = request.getfixturevalue(folder)
    assert manifests
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found(base: list[Manifest]) -> None:
    wrong = json.loads(json.dumps(of_kind(base, "Deployment")["edge"]))
    wrong["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_there_is_a_deployment_for_each_service_and_one_for_the_edges(base: list[Manifest]) -> None:
    assert set(of_kind(base, "Deployment")) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_hither_takes_the_command_and_every_variable(name: str, trial: list[Manifest]) -> None:
    context = parsed(container(trial, name)["args"])
    assert context.params.get("services", ("edge",)) == (name,)
    settings(trial, name)


@pytest.mark.parametrize("name", KINDS)
def test_variables_that_kubernetes_would_make_of_services_are_kept_away(name: str, base: list[Manifest]) -> None:
    assert pod(base, name)["enableServiceLinks"] is False
    with pytest.raises(ConfigError):
        configured({"HITHER_EDGE_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize("name", KINDS)
def test_what_a_process_dials_is_there(name: str, trial: list[Manifest]) -> None:
    reachable = {
        f"{service}:{port['port']}"
        for service, manifest in of_kind(trial, "Service").items()
        for port in manifest["spec"]["ports"]
    }
    assert dialled(settings(trial, name))
    assert dialled(settings(trial, name)) <= reachable


def test_edges_know_no_engine(trial: list[Manifest]) -> None:
    assert not [variable for variable in environment(trial, "edge") if variable.startswith("HITHER_ENGINES")]


@pytest.mark.parametrize("name", KINDS)
def test_a_process_listens_where_its_pod_says_and_is_called_at_its_address(name: str, base: list[Manifest]) -> None:
    config, open_ports = settings(base, name), ports(base, name)
    assert config.mesh.listen == f"0.0.0.0:{open_ports['grpc']}"
    assert config.mesh.advertise == f"10.0.0.7:{open_ports['grpc']}"
    if name == "edge":
        assert (config.process.host, config.process.port) == ("0.0.0.0", open_ports["http"])
    else:
        assert (config.telemetry.metrics_host, config.telemetry.metrics_port) == ("0.0.0.0", open_ports["metrics"])


@pytest.mark.parametrize("name", KINDS)
def test_probes_ask_where_a_process_answers(name: str, base: list[Manifest]) -> None:
    found, port = container(base, name), "http" if name == "edge" else "metrics"
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}
    assert found["livenessProbe"]["httpGet"] == found["startupProbe"]["httpGet"] == {"path": "/healthz", "port": port}
    annotations = of_kind(base, "Deployment")[name]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports(base, name)[port])


@pytest.mark.parametrize("name", KINDS)
def test_a_stop_is_given_the_time_that_it_may_take(name: str, base: list[Manifest]) -> None:
    sleep = container(base, name).get("lifecycle", {"preStop": {"exec": {"command": ["sleep", "0"]}}})
    needed_s = int(sleep["preStop"]["exec"]["command"][1]) + 3 * settings(base, name).process.drain_s
    assert pod(base, name)["terminationGracePeriodSeconds"] > needed_s


@pytest.mark.parametrize("name", KINDS)
def test_a_process_can_do_nothing_that_it_need_not(name: str, base: list[Manifest]) -> None:
    of_pod, of_container = pod(base, name)["securityContext"], container(base, name)["securityContext"]
    assert of_pod["runAsNonRoot"]
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert f"--uid {of_pod['runAsUser']}" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("name", KINDS)
def test_the_mounted_keys_are_a_data_directory(name: str, base: list[Manifest], tmp_path: Path) -> None:
    made = DataDirectory(tmp_path / "made")
    made.fix_partitions(256)
    mounted = tmp_path / "mounted"
    for source in volume(base, name, "keys")["projected"]["sources"]:
        for item in source["secret"]["items"]:
            (origin,) = (tmp_path / "made").rglob(item["key"])
            target = mounted / item["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(origin.read_bytes())
    files = {path.relative_to(mounted) for path in mounted.rglob("*")}

    data = DataDirectory(mounted)
    data.fix_partitions(256)

    assert {path.relative_to(mounted) for path in mounted.rglob("*")} == files
    assert (data.cluster, data.keys.verify_pem, data.keys.resume_key) == (
        made.cluster,
        made.keys.verify_pem,
        made.keys.resume_key,
    )
    assert (data.keys.signing_pem == made.keys.signing_pem) is (name == "directory")
    assert mounted_at(base, name, "keys") == settings(base, name).process.data


@pytest.mark.parametrize("name", KINDS)
def test_a_process_has_a_certificate_of_its_own_name(name: str, base: list[Manifest]) -> None:
    tls, folder = settings(base, name).tls, mounted_at(base, name, "certs")
    assert name in service_names()
    secret = volume(base, name, "certs")["secret"]
    assert secret["secretName"] == f"hither-cert-{name}"
    assert secret["defaultMode"] & 0o007 == 0
    assert (tls.ca, tls.cert, tls.key) == (f"{folder}/ca.crt", f"{folder}/tls.crt", f"{folder}/tls.key")
    assert tls.server_name


def test_only_secrets_that_the_readme_makes_come_from_outside(base: list[Manifest]) -> None:
    asked = set()
    for name in KINDS:
        asked |= {each["secretRef"]["name"] for each in container(base, name)["envFrom"] if "secretRef" in each}
        asked |= {each["secret"]["secretName"] for each in pod(base, name)["volumes"] if "secret" in each}
        asked |= {each["secret"]["name"] for each in volume(base, name, "keys")["projected"]["sources"]}
    assert asked == FROM_OUTSIDE | {"hither-engines", "hither-registry"}


def test_push_alone_has_the_keys_of_providers_and_does_without(base: list[Manifest]) -> None:
    for name in KINDS:
        sources = [each["secretRef"] for each in container(base, name)["envFrom"] if "secretRef" in each]
        volumes = [each["secret"] for each in pod(base, name)["volumes"] if "secret" in each]
        optional = {each.get("name", each.get("secretName")) for each in (*sources, *volumes) if each.get("optional")}
        assert optional == (FOR_PUSH if name == "push" else set())
    keys = volume(base, "push", "push-keys")["secret"]
    assert keys["defaultMode"] & 0o007 == 0
    readme = (DEPLOY / "README.md").read_text()
    assert f"HITHER_PROVIDERS_APNS_KEY_FILE={mounted_at(base, 'push', 'push-keys')}/" in readme
    assert configured({"HITHER_PROVIDERS_APNS_KEY_FILE": "apns.p8"}).providers.apns_key_file == "apns.p8"


def test_what_selects_pods_selects_some(base: list[Manifest]) -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in of_kind(base, "Deployment").values()]
    selectors = [
        *(each["spec"]["selector"] for each in of_kind(base, "Service").values()),
        *(each["spec"]["selector"]["matchLabels"] for each in of_kind(base, "PodDisruptionBudget").values()),
        *(each["spec"]["podSelector"]["matchLabels"] for each in of_kind(base, "NetworkPolicy").values()),
    ]
    assert all(any(selector.items() <= each.items() for each in labels) for selector in selectors)
    assert set(of_kind(base, "PodDisruptionBudget")) == set(KINDS)


def test_clients_come_to_the_port_of_the_edges_and_not_to_their_metrics(base: list[Manifest]) -> None:
    (rule,) = of_kind(base, "Ingress")["edge"]["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert {path["path"] for path in paths} == {"/ws", "/api", "/docs"}
    (port,) = of_kind(base, "Service")["edge"]["spec"]["ports"]
    assert port["targetPort"] in ports(base, "edge")
    assert {path["backend"]["service"]["port"]["name"] for path in paths} == {port["name"]}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_pod_asks_for_what_the_plan_says(name: str, base: list[Manifest]) -> None:
    need = plan(Workload(daily_users=10e6), load_costs()).need(name)
    requests = container(base, name)["resources"]["requests"]
    assert requests["cpu"] == str(need.cores_each)
    assert mebibytes(requests["memory"]) >= need.memory_bytes_each / 2**20


def test_the_engines_of_the_trial_are_those_of_the_compose_file(trial: list[Manifest]) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    engines = of_kind(trial, "StatefulSet")
    assert set(engines) == {"etcd", "kafka", "cassandra", "postgresql", "redis-cache", "redis-bus"}
    for name, engine in engines.items():
        assert engine["spec"]["template"]["spec"]["containers"][0]["image"] == compose[name]["image"]
