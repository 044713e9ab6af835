"""Serve's options of the generation service, and the file for production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from polyray.cluster.session import CPU_ENVIRONMENT
from polyray.config.generation import GenerationServeConfig
from polyray.errors import ConfigError
from polyray.rollout import vllm_build
from polyray.serving.generation import run
from polyray.serving.generation.app import build, build_generation_app
from polyray.serving.generation.tokens import TokenBook

DEPLOY_FILE = Path(__file__).resolve().parents[4] / "deploy/serve/generation.yaml"


def test_production_file_is_valid_and_builds_the_deployment() -> None:
    text = DEPLOY_FILE.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    (application,) = ServeDeploySchema.model_validate(values).applications
    assert application.import_path == "services.generation:app"
    config = GenerationServeConfig.model_validate(application.args)
    assert build(config)._bound_deployment.name == "generation"
    assert config.limits.request_timeout_s <= values["http_options"]["request_timeout_s"]


def test_deployment_options_follow_from_the_configuration() -> None:
    config = GenerationServeConfig.model_validate(
        {
            "num_replicas": 2,
            "num_cpus": 3,
            "engine": {"threads": 2, "max_sequences": 10, "max_queued_sequences": 30, "health_timeout_s": 7},
            "limits": {"request_timeout_s": 9},
        }
    )
    deployment = build_generation_app(config, TokenBook(), None)._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.max_ongoing_requests == 80, "Serve must not be what queues"
    options = deployment.ray_actor_options
    assert options is not None
    assert (options["num_cpus"], options["num_gpus"]) == (3, 0)
    environment = options["runtime_env"]["env_vars"]
    own = {"OMP_NUM_THREADS": "2", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
    assert environment == own | CPU_ENVIRONMENT
    assert deployment._deployment_config.health_check_timeout_s == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selector": "reward"}, r"selector='reward' "),
        ({"diversity": {"source": "task_class"}}, r"diversity\.source='task_class' "),
        ({"route_prefix": "no-slash"}, "route_prefix"),
        ({"adapter_roots": []}, "adapter_roots"),
        *(({"adapters": [given]}, "path") for given in ({}, {"path": "a", "run": "b"}, {"path": ""})),
        ({"adapters": [{"path": "a", "version": 3}]}, "version"),
        ({"reward": {"type": "verifier"}}, r"reward\.type='verifier'"),
    ],
)
def test_deployment_configuration_that_contradicts_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=message):
        build(GenerationServeConfig.model_validate(values))


def test_configuration_relative_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = GenerationServeConfig.model_validate(
        {"model": {"path": "model"}, "database": "sqlite:///a/b.db"}
    )
    assert (config.model.path, config.database) == (f"{tmp_path}/model", f"sqlite:///{tmp_path}/a/b.db")
    assert GenerationServeConfig.model_validate(config.model_dump()) == config
    other = GenerationServeConfig.model_validate({"database": "postgresql://host/name"})
    assert other.database == "postgresql://host/name"


def test_unusable_engine_ends_the_start_before_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deployed(*arguments: object) -> None:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(vllm_build, "installed_build", lambda: ("vllm 0.32.0", False))
    monkeypatch.setattr(run, "ensure_serve", deployed)
    with pytest.raises(ConfigError, match=r"^num_gpus=0, .*vllm 0\.32\.0 .*num_gpus=1"):
        run.start_generation_service(GenerationServeConfig(), TokenBook())


def test_start_timeout_covers_replicas_that_start_in_turn() -> None:
    engine = {"start_timeout_s": 100, "gpu_memory_utilization": 0.2}
    for gpus, replicas, seconds in ((0, 3, 100), (1, 3, 100), (0.25, 3, 300), (0.5, 3, 200)):
        values = {"num_gpus": gpus, "num_replicas": replicas, "engine": engine}
        assert run.start_timeout_s(GenerationServeConfig.model_validate(values)) == seconds
