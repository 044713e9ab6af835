"""Serve's options of the reward deployment, and the file for production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from polyray.config.serve import RewardServeConfig
from polyray.config.service import AutoscalingSpec, ServiceSpec
from polyray.serving.reward.app import build, build_reward_app
from polyray.serving.reward.configuration import ReplicaConfiguration
from tests.unit.serving.reward_service_fixtures import HALF, python_plan, verifier_plan

DEPLOY_FILE = Path(__file__).resolve().parents[3] / "deploy/serve/reward.yaml"


def test_production_file_is_valid_and_loads_its_models() -> None:
    text = DEPLOY_FILE.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    (application,) = ServeDeploySchema.model_validate(values).applications
    assert application.import_path == "services.reward:app"
    config = RewardServeConfig.model_validate(application.args)
    (override,) = application.deployments
    assert override.name == build(config)._bound_deployment.name == "reward"
    assert isinstance(override.user_config, dict)
    configuration = ReplicaConfiguration.from_json(override.user_config)
    assert list(configuration.plans) == ["verifier"] and configuration.revision == "1"
    assert config.how_it_runs.request_timeout_s <= values["http_options"]["request_timeout_s"]
    assert "POLYRAY_API_TOKEN" not in text


def test_deployment_options_follow_from_the_service() -> None:
    limits: dict[str, Any] = {
        "min_replicas": 1,
        "max_replicas": 5,
        "target_ongoing_requests": 3,
        "upscale_delay_s": 1,
    }
    spec = ServiceSpec(
        num_replicas=2,
        num_cpus=0.5,
        num_gpus=0.25,
        node_labels={"zone": "a"},
        max_batch_size=8,
        max_queued_batches=4,
        drain_timeout_s=7,
        autoscaling=AutoscalingSpec(**limits),
    )
    plans = {"a": verifier_plan(), "b": python_plan(HALF)}
    deployment = build_reward_app(ReplicaConfiguration(plans, revision="r"), None, spec)._bound_deployment
    assert deployment.max_ongoing_requests == 32 and deployment.max_queued_requests == 32
    actor = {"num_cpus": 0.5, "num_gpus": 0.25, "label_selector": {"zone": "a"}}
    assert deployment.ray_actor_options == actor and deployment.version == "1"
    config = deployment._deployment_config
    assert (config.backpressure_config.status_code, config.backpressure_config.retry_after_s) == (429, 1)
    assert config.graceful_shutdown_timeout_s == 7
    scaling = config.autoscaling_config
    assert scaling is not None and scaling.initial_replicas == 2 and spec.most_replicas == 5
    assert {key: getattr(scaling, key) for key in limits} == limits
    assert ReplicaConfiguration.from_json(config.user_config).plans == plans
    fixed = build(RewardServeConfig.model_validate({"reward": {"service": {"num_replicas": 3}}}))
    assert fixed._bound_deployment.num_replicas == 3 == ServiceSpec(num_replicas=3).most_replicas
    assert fixed._bound_deployment._deployment_config.autoscaling_config is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "max_replicas=2 .*min_replicas=3"),
        ({"num_replicas": 9, "autoscaling": {}}, "num_replicas=9 .*autoscaling.min_replicas=1"),
        ({"max_batch_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_service_limits_that_contradict_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServiceSpec.model_validate(values)
