"""Choice of the Ray cluster: the one in RAY_ADDRESS, or a new local one."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from polyray.capacity.bundles import Part
from polyray.cluster import joining
from polyray.cluster.session import WORKER_ENVIRONMENT, check_placement, ray_session
from polyray.config.paths import REPOSITORY_ROOT
from polyray.config.run import RaySpec
from polyray.errors import ResourceError


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_a_cluster_is_joined_where_it_is_named_and_never_found(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    ended: list[bool] = []

    def init(**options: Any) -> SimpleNamespace:
        asked.append(options)
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(joining, "_refuse_silence", lambda address: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.delenv(name, raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with ray_session(RaySpec(num_cpus=3)) as dashboard:
        assert dashboard == "http://127.0.0.1:8265"
    (options,) = asked
    assert options.get("address") == (None if address else "local")
    assert options.get("num_cpus") == (None if address else 3)
    assert options["runtime_env"]["env_vars"]["PYTHONPATH"] == str(REPOSITORY_ROOT)
    assert ended == [True]


def nodes(*resources: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "NodeID": f"{number}" * 56,
            "NodeManagerAddress": f"10.0.0.{number}",
            "Alive": True,
            "Labels": {},
            "Resources": each,
        }
        for number, each in enumerate(resources, start=1)
    ]


ENGINES = [Part("engine", 2, {"CPU": 1.0, "GPU": 2.0})]


def test_a_run_that_does_not_fit_is_refused_with_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    there = nodes({"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 8})
    monkeypatch.setattr(ray, "nodes", lambda: there)
    check_placement(ENGINES, "rollout.num_workers")
    there[3]["Alive"] = False
    with pytest.raises(ResourceError) as refused:
        check_placement(ENGINES, "rollout.num_workers")
    machines = (
        r"10\.0\.0\.1 \(node 11111111\) .*7 CPUs, 0 GPUs.*10\.0\.0\.2 \(node 22222222\) .*8 CPUs, 1 GPU\b.*"
        r"10\.0\.0\.3 \(node 33333333\) .*8 CPUs, 1 GPU\b"
    )
    assert re.search(rf"2 x engine \(1 CPU, 2 GPUs\).* 1 x engine .*{machines}", str(refused.value))
    assert str(refused.value).endswith("rollout.num_workers")


@pytest.mark.parametrize(
    ("resources", "address", "fix"),
    [
        ({"CPU": 1, "GPU": 4}, None, "ray.num_cpus"),
        ({"CPU": 1, "GPU": 4}, "auto", "autoscaler"),
        ({"CPU": 8, "GPU": 1}, None, "RAY_ADDRESS"),
    ],
)
def test_fix_depends_on_the_missing_resource_and_the_ray_owner(
    resources: dict[str, float], address: str | None, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "nodes", lambda: nodes(resources))
    with pytest.raises(ResourceError) as refused:
        check_placement(ENGINES, "x")
    advice = str(refused.value).partition("; ")[2]
    assert fix in advice and advice.endswith(" x")


@pytest.mark.parametrize(("ids", "visible"), [([], ""), (["1"], "1")])
def test_ray_hides_gpus_from_a_worker_that_asked_for_none(
    ids: list[str], visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what Ray itself does before an actor's code runs, in the environment that a job gives its workers."""
    from ray._private.utils import set_visible_accelerator_ids

    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": ids})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    for name, value in WORKER_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    set_visible_accelerator_ids()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_ray_session_forgets_the_serve_client_of_its_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve import context

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("polyray.cluster.session._connect", lambda *_: SimpleNamespace(dashboard_url=""))
    monkeypatch.setattr(context, "_global_client", object())
    with ray_session(RaySpec()):
        assert context._global_client is not None
    assert context._global_client is None
