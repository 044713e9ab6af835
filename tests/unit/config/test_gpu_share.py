"""Memory of engines that share a GPU, checked when a configuration is read."""

from __future__ import annotations

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
    [(0, 8, 1), (1, 8, 1), (2, 8, 1), (0.5, 8, 2), (0.5, 1, 1), (0.6, 8, 1), (1 / 3, 8, 3), (0.1, 99, 10)],
)
def test_engines_on_one_gpu_follow_their_share(gpus: float, engines: int, together: int) -> None:
    assert engines_on_one_gpu(gpus, engines) == together


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (
            {"num_workers": 2, "gpus_per_worker": 0.5},
            r"gpu_memory_utilization=0\.85.*gpus_per_worker=0\.5.*num_workers=2: 2 .*\b1\.7\b.*"
            r"gpu_memory_utilization .*\b0\.45\b.*gpus_per_worker=1$",
        ),
        (
            {"max_workers": 3, "gpus_per_worker": 0.25, "gpu_memory_utilization": 0.34},
            "max_workers=3: 3 engines",
        ),
        ({"num_workers": 1, "gpus_per_worker": 0.5}, None),
        ({"num_workers": 2, "gpus_per_worker": 0.5, "gpu_memory_utilization": 0.5}, None),
        ({"num_workers": 3, "gpus_per_worker": 0.3333, "gpu_memory_utilization": 0.33}, None),
        ({"num_workers": 2, "gpus_per_worker": 0.6}, None),
        ({"num_workers": 2, "gpus_per_worker": 1}, None),
        ({"num_workers": 2, "gpus_per_worker": 0.5, "engine": "simulated"}, None),
    ],
)
def test_engines_of_a_run_may_not_exceed_their_gpu(rollout: dict[str, Any], message: str | None) -> None:
    if message is None:
        build_config(TrainConfig, {"name": "x", "rollout": rollout})
        return
    with pytest.raises(ConfigError, match=message):
        build_config(TrainConfig, {"name": "x", "rollout": rollout})


def test_engines_of_evaluations_and_services_may_not_exceed_their_gpu() -> None:
    values = {"name": "x", "adapters": {"base": None}, "rollout": {"num_workers": 4, "gpus_per_worker": 0.25}}
    with pytest.raises(ConfigError, match=r"\b4 .*GPU.*\b0\.22\b"):
        build_config(EvaluateConfig, values)
    service: dict[str, Any] = {"num_replicas": 2, "num_gpus": 0.5}
    with pytest.raises(
        ConfigError, match=r"engine\.gpu_memory_utilization=0\.85.*num_gpus=0\.5.*num_replicas=2\b"
    ):
        build_config(GenerationServeConfig, service)
    build_config(GenerationServeConfig, {**service, "engine": {"gpu_memory_utilization": 0.45}})


def test_engine_of_a_service_has_the_gpus_of_its_replica() -> None:
    config = build_config(GenerationServeConfig, {"num_gpus": 2, "engine": {"tensor_parallel_size": 2}})
    assert (config.rollout().gpus_per_worker, config.rollout().tensor_parallel_size) == (2, 2)
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel_size=2.*num_gpus=1.*num_gpus=2"):
        build_config(GenerationServeConfig, {"num_gpus": 1, "engine": {"tensor_parallel_size": 2}})


@pytest.mark.parametrize(("gpus", "starts"), [(0.25, 4), (0, 1), (1, 1), (2, 1)])
def test_shared_gpu_multiplies_the_start_time(gpus: float, starts: int) -> None:
    spec = RolloutSpec(num_workers=8, gpus_per_worker=gpus, gpu_memory_utilization=0.2)
    assert (spec.shares_gpus, spec.ready_within_s) == (starts > 1, starts * spec.start_timeout_s)
