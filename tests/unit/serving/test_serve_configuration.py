"""Serve's options of the reward deployment, and the file for production."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from polyray.config.serve import RewardServeConfig
from polyray.config.service import AutoscalingSpec, SandboxServiceSpec, ServiceSpec
from polyray.serving.reward.app import build, build_reward_app
from polyray.serving.reward.configuration import ReplicaConfiguration
from tests.unit.serving.reward_service_fixtures import HALF, python_plan, verifier_plan

DEPLOY_FILE = Path(__file__).resolve().parents[3] / "deploy/serve/reward.yaml"


def test_production_file_is_valid_and_loads_its_models():
    values = yaml.safe_load(DEPLOY_FILE.read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(values)
    (application,) = schema.applications
    assert application.import_path == "services.reward:app"
    config = RewardServeConfig.model_validate(application.args)
    deployment = build(config)._bound_deployment
    (override,) = application.deployments
    assert override.name == deployment.name == "reward"
    assert isinstance(override.user_config, dict)
    configuration = ReplicaConfiguration.from_json(override.user_config)
    assert list(configuration.plans) == ["verifier"] and configuration.revision == "1"
    assert config.how_it_runs.request_timeout_s <= values["http_options"]["request_timeout_s"]
    assert "POLYRAY_API_TOKEN" not in DEPLOY_FILE.read_text(encoding="utf-8")


def test_the_options_of_the_deployment_follow_from_the_service():
    spec = ServiceSpec(
        num_replicas=2,
        num_cpus=0.5,
        num_gpus=0.25,
        node_labels={"zone": "a"},
        max_batch_size=8,
        max_queued_batches=4,
        drain_timeout_s=7,
        autoscaling=AutoscalingSpec(
            min_replicas=1, max_replicas=5, target_ongoing_requests=3, upscale_delay_s=1
        ),
    )
    plans = {"a": verifier_plan(), "b": python_plan(HALF)}
    app = build_reward_app(ReplicaConfiguration(plans, revision="r"), None, spec)
    deployment = app._bound_deployment
    assert deployment.max_ongoing_requests == 32 and deployment.max_queued_requests == 32
    assert deployment.ray_actor_options == {
        "num_cpus": 0.5,
        "num_gpus": 0.25,
        "label_selector": {"zone": "a"},
    }
    assert deployment.version == "1"
    config = deployment._deployment_config
    assert (config.backpressure_config.status_code, config.backpressure_config.retry_after_s) == (429, 1)
    assert config.graceful_shutdown_timeout_s == 7
    scaling = config.autoscaling_config
    assert scaling is not None
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (1, 2, 5)
    assert (scaling.target_ongoing_requests, scaling.upscale_delay_s) == (3, 1)
    assert ReplicaConfiguration.from_json(config.user_config).plans == plans


def test_without_autoscaling_the_number_of_replicas_is_fixed():
    app = build(RewardServeConfig.model_validate({"reward": {"service": {"num_replicas": 3}}}))
    assert app._bound_deployment.num_replicas == 3
    assert app._bound_deployment._deployment_config.autoscaling_config is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "max_replicas=2 .*min_replicas=3"),
        (
            {"num_replicas": 9, "autoscaling": {}},
            "num_replicas=9 .*autoscaling.min_replicas=1",
        ),
        ({"max_batch_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_limits_that_cannot_be_are_named(values: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        ServiceSpec.model_validate(values)


def test_the_most_replicas_there_can_be():
    assert ServiceSpec(num_replicas=2).most_replicas == 2
    assert SandboxServiceSpec(autoscaling=AutoscalingSpec(max_replicas=6)).most_replicas == 6
