"""What can drift apart in deploy/: the files are held against each other and against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mpls.config import ClusterConfig, load, loads
from mpls.runtime.keys import KeyFiles
from mpls.runtime.sockets import listener_at
from mpls.runtime.worker import DRAIN_S
from tests.deploy import manifests

ROOT = Path(__file__).parents[2]
UID = 10001
PLACE = Path("/etc/mpls/cluster.toml")
"""Of the cluster file, in every container."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found = manifests.compose()["services"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    found = manifests.kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def of_compose() -> ClusterConfig:
    return load(manifests.DEPLOY / "compose.toml")


def of_kubernetes() -> ClusterConfig:
    text = manifests.kubernetes()["ConfigMap"]["data"]["cluster.toml"]
    return loads(text, "kubernetes.yaml")


@pytest.mark.parametrize("config", [of_compose(), of_kubernetes()], ids=["compose", "kubernetes"])
def test_a_federation_in_boxes_is_encrypted_and_has_nothing_odd(config: ClusterConfig) -> None:
    assert config.security() == "curve"
    assert config.warnings == ()
    assert config.metrics.port > 0
    assert config.cluster.out == "/var/lib/mpls"


def test_each_service_runs_the_worker_whose_host_it_is(services: dict[str, Any]) -> None:
    config = of_compose()
    assert [worker.host for worker in config.workers] == list(services)
    for worker in config.workers:
        service = services[worker.host]
        assert service["command"] == ["worker", str(PLACE), "--id", str(worker.id)]
        health = f"127.0.0.1:{config.metrics.port + worker.id}"
        assert service["healthcheck"]["test"] == ["CMD", "mpls", "status", health]


def test_a_service_gets_its_own_secret_where_it_is_looked_for_and_no_other(
    services: dict[str, Any],
) -> None:
    files, given = KeyFiles(PLACE), manifests.compose()["secrets"]
    beside = KeyFiles(Path("compose.toml"))
    for name, service in services.items():
        secret = {"source": name, "target": str(files.secret(name))}
        assert service["secrets"] == [secret]
        assert given[name] == {"file": f"./{beside.secret(name)}"}
        mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
        assert mounts == {
            str(PLACE): "./compose.toml",
            str(files.public): f"./{beside.public}",
            "/var/lib/mpls": name,
        }


def test_a_service_is_confined_and_its_network_leads_nowhere(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["networks"] == ["links"]
        assert "ports" not in service
    assert manifests.compose()["networks"]["links"]["internal"] is True


def test_a_box_is_given_longer_to_end_than_a_worker_takes(
    services: dict[str, Any], pod: dict[str, Any]
) -> None:
    grace = {service["stop_grace_period"] for service in services.values()}
    assert grace == {f"{pod['terminationGracePeriodSeconds']}s"}
    assert pod["terminationGracePeriodSeconds"] >= sum(DRAIN_S.values()) + 10


def test_pods_are_the_workers_of_their_cluster_file(pod: dict[str, Any]) -> None:
    resources, config = manifests.kubernetes(), of_kubernetes()
    service, pods = resources["Service"], resources["StatefulSet"]
    name, domain = pods["metadata"]["name"], service["metadata"]["name"]
    assert pods["spec"]["serviceName"] == domain
    assert pods["spec"]["replicas"] == len(config.workers)
    for worker in config.workers:
        assert worker.name == f"{name}-{worker.id}"
        assert worker.host == f"{worker.name}.{domain}"
        assert worker.port == service["spec"]["ports"][0]["port"]
    (container,) = pod["containers"]
    assert container["ports"][0]["containerPort"] == config.workers[0].port
    probes = str([container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")])
    assert set(re.findall(r"\b9\d{3}\b", probes)) == {str(config.metrics.port)}
    labels = pods["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_a_pod_sees_its_own_secret_only_and_runs_as_the_images_uid(pod: dict[str, Any]) -> None:
    (keys,), (worker,) = pod["initContainers"], pod["containers"]
    secrets = [mount for mount in keys["volumeMounts"] if mount["name"] == "keys"]
    assert [m.get("subPath") or m["subPathExpr"] for m in secrets] == [
        "cluster.keys.toml",
        "$(POD).secret",
    ]
    assert "keys" not in [mount["name"] for mount in worker["volumeMounts"]]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (UID, UID)
    for container in (keys, worker):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_image_has_a_python_that_we_support_and_not_root() -> None:
    lines = manifests.dockerfile()
    bases = [
        re.fullmatch(r"python:3\.(\d+)-slim-\w+( AS \w+)?", x) for w, x in lines if w == "FROM"
    ]
    minors = {base[1] for base in bases if base}
    assert len(bases) == 2
    assert all(bases)
    assert len(minors) == 1
    project = (ROOT / "pyproject.toml").read_text()
    assert f"Programming Language :: Python :: 3.{minors.pop()}" in project
    assert ("USER", f"{UID}:{UID}") in lines
    copied = [rest for word, rest in lines if word == "COPY" and "--from" not in rest]
    let_in = (ROOT / ".dockerignore").read_text()
    for source in (source for rest in copied for source in rest.split()[:-1]):
        assert (ROOT / source).exists(), source
        assert f"!{source}\n" in let_in


def test_a_worker_listens_where_its_hosts_name_leads() -> None:
    """As in a container, whose own name is in its /etc/hosts."""
    with listener_at("w0", "localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
