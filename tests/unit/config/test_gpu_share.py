"""Engines that may lie on one GPU take no more than it has: said when a configuration is read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from polyray.config.generation import GenerationServeConfig
from polyray.config.gpu_share import engines_on_one_gpu
from polyray.config.loader import build_config
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, TrainConfig
from polyray.errors import ConfigError


@pytest.mark.parametrize(
    ("gpus", "engines", "together"),
    [
        (0, 8, 1),
        (1, 8, 1),
        (2, 8, 1),
        (0.5, 8, 2),
        (0.5, 1, 1),
        (0.6, 8, 1),
        (1 / 3, 8, 3),
        (0.1, 8, 8),
        (0.1, 99, 10),
    ],
)
def test_how_many_may_lie_on_one_gpu(gpus: float, engines: int, together: int) -> None:
    assert engines_on_one_gpu(gpus, engines) == together


def refusal(**rollout: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(TrainConfig, {"name": "x", "rollout": rollout})
    return str(caught.value)


def test_two_engines_of_half_a_gpu_cannot_take_most_of_it_each() -> None:
    message = refusal(num_workers=2, gpus_per_worker=0.5)
    assert re.search(
        r"gpu_memory_utilization=0\.85.*gpus_per_worker=0\.5.*num_workers=2: 2 .*\b1\.7\b", message
    )
    assert re.search(r"gpu_memory_utilization .*\b0\.45\b.*gpus_per_worker=1$", message)
    message = refusal(max_workers=3, gpus_per_worker=0.25, gpu_memory_utilization=0.34)
    assert "max_workers=3: 3 engines" in message


@pytest.mark.parametrize(
    "rollout",
    [
        {"num_workers": 1, "gpus_per_worker": 0.5},
        {"num_workers": 2, "gpus_per_worker": 0.5, "gpu_memory_utilization": 0.5},
        {"num_workers": 3, "gpus_per_worker": 0.3333, "gpu_memory_utilization": 0.33},
        {"num_workers": 2, "gpus_per_worker": 0.6},
        {"num_workers": 2, "gpus_per_worker": 1},
        {"num_workers": 2, "gpus_per_worker": 0},
        {"num_workers": 2, "gpus_per_worker": 0.5, "engine": "simulated"},
    ],
)
def test_fitting_gpu_share_is_accepted(rollout: dict[str, Any]) -> None:
    built = build_config(TrainConfig, {"name": "x", "rollout": rollout}).rollout
    assert {key: getattr(built, key) for key in rollout} == rollout


def test_the_same_holds_for_evaluations_and_for_replicas_of_a_service() -> None:
    values = {"name": "x", "adapters": {"base": None}, "rollout": {"num_workers": 4, "gpus_per_worker": 0.25}}
    with pytest.raises(ConfigError, match=r"\b4 .*GPU.*\b0\.22\b"):
        build_config(EvaluateConfig, values)
    service: dict[str, Any] = {"num_replicas": 2, "num_gpus": 0.5}
    with pytest.raises(
        ConfigError,
        match=r"engine\.gpu_memory_utilization=0\.85.*num_gpus=0\.5.*num_replicas=2\b",
    ):
        build_config(GenerationServeConfig, service)
    build_config(GenerationServeConfig, {**service, "engine": {"gpu_memory_utilization": 0.45}})


def test_an_engine_of_a_service_has_the_gpus_of_its_replica() -> None:
    config = build_config(GenerationServeConfig, {"num_gpus": 2, "engine": {"tensor_parallel_size": 2}})
    assert (config.rollout().gpus_per_worker, config.rollout().tensor_parallel_size) == (2, 2)
    assert GenerationServeConfig().rollout().gpus_per_worker == 0
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel_size=2.*num_gpus=1.*num_gpus=2"):
        build_config(GenerationServeConfig, {"num_gpus": 1, "engine": {"tensor_parallel_size": 2}})


def test_shared_gpu_multiplies_the_start_time() -> None:
    shared = RolloutSpec(num_workers=8, gpus_per_worker=0.25, gpu_memory_utilization=0.2)
    assert (shared.shares_gpus, shared.ready_within_s) == (True, 4 * shared.start_timeout_s)
    for gpus in (0, 1, 2):
        spec = RolloutSpec(num_workers=8, gpus_per_worker=gpus)
        assert (spec.shares_gpus, spec.ready_within_s) == (False, spec.start_timeout_s)
