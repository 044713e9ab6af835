"""The rendered manifests are valid by the schemas of KubeRay and Kubernetes, and safe."""

from __future__ import annotations

import functools
import gzip
import json
import os
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.data_sets import shared_data
from tests.unit.deploy.rendering import (
    KUBERAY,
    OVERLAYS,
    ROOT,
    closed,
    cluster_spec,
    pods,
    quantity,
    render,
    render_one,
)

EXPECTED = {"shared", "cluster", "sft", "train", "evaluate", "sweep", "reward", "generation"}
KUBERNETES = "1.33"
"""The oldest version that is meant to work."""
OBJECT_STORE_SHARE = 0.3
"""Of a node's memory, Ray's default."""

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=[str(path) for path in OVERLAYS])
clusters = pytest.mark.parametrize(
    "overlay",
    [path for path in OVERLAYS if path.name != "shared"],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)


@functools.cache
def operator_validator(kind: str) -> jsonschema.Draft202012Validator:
    path = shared_data(f"kuberay/{kind.lower()}s.v1.schema.json.gz")
    return jsonschema.Draft202012Validator(closed(json.loads(gzip.decompress(path.read_bytes()))))


def complaints(document: dict[str, Any]) -> list[str]:
    found = operator_validator(document["kind"]).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


@clusters
def test_cluster_manifests_follow_the_schema_and_limits_of_the_operator(overlay: Path) -> None:
    document = render_one(KUBERAY / overlay)
    assert complaints(document) == []
    assert len(document["metadata"]["name"]) <= 47, "the operator adds to it"
    assert document["metadata"]["namespace"] == "polyray"
    sizes = {(path.parent.name, path.name) for path in OVERLAYS}
    assert sizes == {(size, part) for size in ("small", "large") for part in EXPECTED}


def test_typing_error_in_a_manifest_is_found() -> None:
    document = render_one(KUBERAY / "overlays/small/train")
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securitycontext"] = {}
    document["spec"]["backofflimit"] = 3
    found = " ".join(complaints(document))
    assert "backofflimit" in found and "securitycontext" in found


@each_overlay
def test_manifests_and_pods_follow_the_schemas_of_kubernetes(overlay: Path) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate",
        reason="no kubernetes-validate; `make setup` installs it (requirements/tools.in)",
    ).validate
    for document in render(KUBERAY / overlay):
        if cluster_spec(document) is None:
            validate(document, KUBERNETES, strict=True)
        for pod in pods(document):
            template = {"metadata": {"name": pod.name, "labels": pod.labels}, "spec": pod.spec}
            validate({"apiVersion": "v1", "kind": "Pod", **template}, KUBERNETES, strict=True)


@clusters
def test_ray_requires_a_token_of_a_secret(overlay: Path) -> None:
    cluster = cluster_spec(render_one(KUBERAY / overlay))
    assert cluster is not None
    assert cluster["authOptions"] == {"mode": "token", "secretName": "polyray-ray-token"}
    assert cluster["rayVersion"] == metadata.version("ray"), "the manifests and the image must be of one Ray"


@clusters
def test_pods_run_without_rights(overlay: Path) -> None:
    for pod in pods(render_one(KUBERAY / overlay)):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 1000, pod.name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod.name
        for container in pod.spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }, pod.name
        if pod.name != "head":  # there the autoscaler needs the operator's service account
            assert pod.spec["automountServiceAccountToken"] is False, pod.name


@clusters
def test_containers_have_resources_and_a_version(overlay: Path) -> None:
    document = render_one(KUBERAY / overlay)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cluster = cluster_spec(document)
    assert cluster is not None
    found = [container for pod in pods(document) for container in pod.spec["containers"]]
    for container in found:
        name, _, tag = container["image"].rpartition(":")
        assert name == "registry.example.com/polyray"
        assert tag == f"{version}-{'cpu' if overlay.parent.name == 'small' else 'gpu'}"
    for container in [*found, cluster["autoscalerOptions"]]:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert set(limits) >= {"cpu", "memory"}
        assert set(requests) == set(limits)
        assert all(0 < quantity(requests[key]) <= quantity(limits[key]) for key in limits)


@clusters
def test_shared_memory_holds_the_object_store(overlay: Path) -> None:
    for pod in pods(render_one(KUBERAY / overlay)):
        if not pod.runs_ray:
            continue
        (container,) = pod.spec["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert mounts["shm"] == "/dev/shm" and mounts["runs"] == f"{container['workingDir']}/runs"
        assert set(mounts) == set(volumes)
        shm = volumes["shm"]["emptyDir"]
        memory = quantity(container["resources"]["limits"]["memory"])
        assert shm["medium"] == "Memory"
        assert OBJECT_STORE_SHARE * memory <= quantity(shm["sizeLimit"]) <= 0.5 * memory, pod.name


@clusters
def test_secrets_are_named_and_never_written(overlay: Path) -> None:
    document = render_one(KUBERAY / overlay)
    for pod in pods(document):
        for variable in pod.spec["containers"][0].get("env", []):
            secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "PASSWORD", "SECRET"))
            assert ("secretKeyRef" in variable.get("valueFrom", {})) == secret, variable["name"]
    text = yaml.safe_dump(document)
    assert "Bearer" not in text and "hf_" not in text.replace("hf_token", "")
    assert document["kind"] != "Secret"


@clusters
def test_autoscaler_settings_are_valid(overlay: Path) -> None:
    """Rules of the operator's validation for autoscaler v2 and groups."""
    cluster = cluster_spec(render_one(KUBERAY / overlay))
    assert cluster is not None
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"


def test_large_cluster_has_gpu_and_spot_groups_and_survives_its_head() -> None:
    cluster = cluster_spec(render_one(KUBERAY / "overlays/large/cluster"))
    assert cluster is not None
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert list(groups) == ["cpu", "gpu", "spot"]
    assert groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    spot = groups["spot"]["template"]["spec"]
    assert groups["spot"]["minReplicas"] == 0 and groups["spot"]["labels"] == {"polyray.io/capacity": "spot"}
    assert spot["nodeSelector"] == {"polyray.io/capacity": "spot"}
    taint = {"key": "polyray.io/capacity", "operator": "Equal", "value": "spot", "effect": "NoSchedule"}
    assert taint in spot["tolerations"]
    fault_tolerance = cluster["gcsFaultToleranceOptions"]
    assert fault_tolerance["backend"] == "rocksdb" and fault_tolerance["storage"]["size"] == "10Gi"
    assert not any(key.startswith("redis") for key in fault_tolerance)


def test_network_policy_covers_every_pod_and_opens_four_ports() -> None:
    documents = render(KUBERAY / "overlays/small/shared")
    found = [item for item in documents if item["kind"] == "NetworkPolicy"]
    policies = {item["metadata"]["name"]: item["spec"] for item in found}
    selected = policies["polyray"]["podSelector"]["matchLabels"]
    for overlay in OVERLAYS:
        for document in render(KUBERAY / overlay):
            for pod in pods(document):
                assert selected.items() <= pod.labels.items(), f"{overlay} {pod.name}"
    inside, *outside = policies["polyray"]["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": selected}}]}
    ports = [sorted(port["port"] for port in rule["ports"]) for rule in outside]
    assert ports == [[8000, 8265], [8080], [8000]]
    assert all("namespaceSelector" in peer for rule in outside for peer in rule["from"])
    assert policies["deny-ingress"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_mtls_component_enables_tls(tmp_path: Path) -> None:
    def here(path: str) -> str:
        return os.path.relpath(KUBERAY / path, tmp_path)

    values = {
        "resources": [here("base/cluster"), here("base/job")],
        "components": [here("components/large"), here("components/mtls"), here("components/embed")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    document = render_one(tmp_path)
    assert document["spec"]["rayClusterSpec"]["tlsOptions"] == {"enabled": True}
    assert complaints(document) == []


def test_namespace_admits_only_restricted_pods() -> None:
    (namespace,) = [item for item in render(KUBERAY / "overlays/large/shared") if item["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == "polyray"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    claims = [
        item for item in render(KUBERAY / "overlays/large/shared") if item["kind"] == "PersistentVolumeClaim"
    ]
    assert {claim["metadata"]["name"] for claim in claims} == {"polyray-runs", "polyray-cache"}
    assert all(claim["spec"]["accessModes"] == ["ReadWriteMany"] for claim in claims)
