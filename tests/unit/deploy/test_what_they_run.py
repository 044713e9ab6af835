"""Commands and Serve applications of the manifests are valid and fit."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from polyray.capacity.bundles import (
    CPU,
    GPU,
    Machine,
    Part,
    engines,
    learner_ranks,
    misfit,
    total,
    training_parts,
)
from polyray.config.generation import GenerationServeConfig
from polyray.config.loader import load_config
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.run import EvaluateConfig, TrainConfig
from polyray.config.serve import RewardServeConfig
from polyray.config.sft import SftConfig
from polyray.config.sweep import SweepConfig
from polyray.sweeps.plan import parts_at_once, plan_trials
from tests.job_checks import check_without_models
from tests.unit.deploy.rendering import KUBERAY, ROOT, cluster_spec, pods, quantity, render_one

JOBS = [(size, job) for size in ("small", "large") for job in ("sft", "train", "evaluate", "sweep")]
SERVICES = [(size, service) for size in ("small", "large") for service in ("reward", "generation")]
each_job = pytest.mark.parametrize(("size", "job"), JOBS)
each_service = pytest.mark.parametrize(("size", "service"), SERVICES)


def rendered(size: str, part: str) -> dict[str, Any]:
    return render_one(KUBERAY / "overlays" / size / part)


def placed(job: str, words: list[str]) -> list[Part]:
    """Resources that the job asks for, by its own functions."""
    file, overrides = ROOT / words[3], words[4:]
    if job == "sft":
        return [learner_ranks(load_config(SftConfig, file, overrides).learner)]
    if job == "train":
        return training_parts(load_config(TrainConfig, file, overrides))
    if job == "evaluate":
        return [engines(load_config(EvaluateConfig, file, overrides).rollout)]
    config = load_config(SweepConfig, file, overrides)
    return parts_at_once(config, plan_trials(config))


def machines(document: dict[str, Any]) -> dict[str, Machine]:
    """Ray's nodes before the autoscaler adds any; the head schedules nothing."""
    spec = cluster_spec(document)
    assert spec is not None and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    labels = {group["groupName"]: group.get("labels", {}) for group in spec["workerGroupSpecs"]}
    workers = [pod for pod in pods(document) if pod.runs_ray and pod.name != "head"]
    found = {}
    for pod in workers:
        limits = pod.spec["containers"][0]["resources"]["limits"]
        resources = {CPU: quantity(limits["cpu"]), GPU: quantity(limits.get("nvidia.com/gpu", 0))}
        found |= {f"{pod.name}-{at}": Machine(resources, labels[pod.name]) for at in range(pod.num_started)}
    return found


@each_job
def test_job_is_valid_and_fits_the_cluster_that_it_starts(
    size: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = rendered(size, job)
    spec = document["spec"]
    entrypoint, words = spec["entrypoint"], spec["entrypoint"].split()
    # The operator appends the unquoted entrypoint to a `ray job submit`.
    assert not re.search(r"[\"'`$&|;<>(){}*?#\\\n]", entrypoint)
    assert document["metadata"]["name"] == job and words[:3] == ["python", "-m", f"jobs.{job}"]
    assert spec["shutdownAfterJobFinishes"] is True and spec["backoffLimit"] == 3
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    monkeypatch.chdir(ROOT)
    assert check_without_models(importlib.import_module(words[2]).main, words[3:]) == 0
    parts = placed(job, words)
    assert misfit(parts, machines(document)) is None
    assert (total(parts, GPU) > 0) == (size == "large"), "small needs no GPU, large uses them"


@each_service
def test_service_is_accepted_by_serve_and_fits_a_pod(size: str, service: str) -> None:
    document = rendered(size, service)
    assert document["metadata"]["name"] == f"polyray-{service}"
    values = yaml.safe_load(document["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(values).applications
    assert application.import_path == f"services.{service}:app"
    assert values["http_options"]["host"] == "0.0.0.0"
    model = {"reward": RewardServeConfig, "generation": GenerationServeConfig}[service]
    config = model.model_validate(application.args)
    needs = config if isinstance(config, GenerationServeConfig) else config.how_it_runs
    limits = [
        pod.spec["containers"][0]["resources"]["limits"] for pod in pods(document) if pod.name != "head"
    ]
    assert any(
        needs.num_cpus <= quantity(limit["cpu"])
        and needs.num_gpus <= quantity(limit.get("nvidia.com/gpu", 0))
        for limit in limits
    ), "a replica must fit one pod"
    if size == "small":
        file = ROOT / f"deploy/serve/{service}.yaml"
        assert document["spec"]["serveConfigV2"] == file.read_text(encoding="utf-8")


@each_service
def test_only_the_generation_service_knows_the_admin_token(size: str, service: str) -> None:
    names = {
        variable["name"]: pod.name
        for pod in pods(rendered(size, service))
        for variable in pod.spec["containers"][0]["env"]
    }
    assert "POLYRAY_API_TOKEN" in names
    where = {"small": "cpu", "large": "gpu"}[size]
    assert names.get("POLYRAY_ADMIN_TOKEN") == (where if service == "generation" else None)


def requested(document: dict[str, Any]) -> tuple[float, float]:
    """(CPUs, GiB) that the pods request before the autoscaler adds any, its own container among them."""
    spec = cluster_spec(document)
    assert spec is not None and spec["enableInTreeAutoscaling"]
    requests = [(1, spec["autoscalerOptions"]["resources"]["requests"])]
    requests += [
        (pod.num_started, container["resources"]["requests"])
        for pod in pods(document)
        for container in pod.spec["containers"]
    ]
    cpus = sum(number * quantity(request["cpu"]) for number, request in requests)
    return cpus, sum(number * quantity(request["memory"]) for number, request in requests) / 2**30


@pytest.mark.parametrize("part", ["cluster", "reward", "generation", "sft", "train", "evaluate", "sweep"])
def test_readme_states_the_requests_of_the_small_overlay(part: str) -> None:
    readme = (KUBERAY / "README.md").read_text(encoding="utf-8")
    cpus, gib = requested(rendered("small", part))
    assert f"{cpus:g} CPUs and {gib:g} GiB" in readme.replace("\n", " ")


def test_generation_uses_the_url_and_task_of_the_reward_service() -> None:
    document = rendered("large", "reward")
    (reward,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    (other,) = yaml.safe_load(rendered("large", "generation")["spec"]["serveConfigV2"])["applications"]
    config = GenerationServeConfig.model_validate(other["args"])
    assert isinstance(config.reward, HttpRewardSpec) and config.reward.token_env == "POLYRAY_API_TOKEN"
    service = f"http://{document['metadata']['name']}-serve-svc:8000"
    assert config.reward.url == f"{service}{reward['route_prefix']}"
    (deployment,) = reward["deployments"]
    assert config.task.type == deployment["user_config"]["task"]["type"]
