"""Rendered manifests of deploy/kuberay, and the parts of them that tests read."""

from __future__ import annotations

import copy
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
KUBERAY = ROOT / "deploy/kuberay"
OVERLAYS = sorted(
    path.parent.relative_to(KUBERAY) for path in KUBERAY.glob("overlays/*/*/kustomization.yaml")
)
SPEC_OF_CLUSTER = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Kind -> where below `spec` its Ray cluster is described."""

_UNITS = {"": 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def program(name: str) -> str:
    """The program `name` of this environment, or of the PATH; skips the test where there is none."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"no {name}; `make setup` installs it (requirements/tools.in)")
    return found


@functools.cache
def _rendered(folder: Path) -> str:
    command = [program("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return done.stdout


def render(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization, e.g. render(KUBERAY / "overlays/small/train")."""
    return list(yaml.safe_load_all(_rendered(folder)))


def render_one(folder: Path) -> dict[str, Any]:
    """The only object of a kustomization."""
    (found,) = render(folder)
    return found


def cluster_spec(document: dict[str, Any]) -> dict[str, Any] | None:
    """The RayCluster's spec in a RayCluster, RayJob or RayService; None for other kinds."""
    if document["kind"] not in SPEC_OF_CLUSTER:
        return None
    found = document["spec"]
    for key in SPEC_OF_CLUSTER[document["kind"]]:
        found = found[key]
    return found


@dataclass(frozen=True)
class Pod:
    """One kind of pod.

    Example:
        Pod("gpu", {"containers": [...], "volumes": [...]}, {"app.kubernetes.io/part-of": "polyray"}, 2, True)
    """

    name: str
    spec: dict[str, Any]
    labels: dict[str, str]
    num_started: int
    """How many there are before the autoscaler adds any."""
    runs_ray: bool


def pods(document: dict[str, Any]) -> Iterator[Pod]:
    """The pods that the operator makes of a document."""
    cluster = cluster_spec(document)
    if cluster is None:
        return
    groups = [("head", 1, cluster["headGroupSpec"]["template"])]
    groups += [
        (group["groupName"], group["minReplicas"], group["template"]) for group in cluster["workerGroupSpecs"]
    ]
    for name, number, template in groups:
        yield Pod(name, template["spec"], template["metadata"]["labels"], number, runs_ray=True)
    if "submitterPodTemplate" in document["spec"]:
        template = document["spec"]["submitterPodTemplate"]
        yield Pod("submitter", template["spec"], template["metadata"]["labels"], 1, runs_ray=False)


def quantity(value: str | int) -> float:
    """A Kubernetes quantity as a number: "500m" -> 0.5, "2Gi" -> 2147483648."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Mi|Gi|Ti|)", str(value))
    assert found is not None, f"{value!r} is no quantity that these tests know"
    return float(found[1]) * _UNITS[found[2]]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every object that names its properties closed to others, so that a typing error is seen.

    The API server drops unknown fields of a custom resource without a word.
    """
    schema = copy.deepcopy(schema)

    def close(node: Any) -> None:
        if isinstance(node, dict):
            properties = node.get("properties")
            if isinstance(properties, dict) and node.get("type") == "object":
                node.setdefault("additionalProperties", False)
            for child in node.values():
                close(child)
        elif isinstance(node, list):
            for child in node:
                close(child)

    close(schema)
    return schema
