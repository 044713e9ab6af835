"""The reward service as a Ray Serve deployment: groups over a handle, items over HTTP, in the same batches.

    RewardClient --handle--> score_groups ---.
                                              >-- ServedModel: queue, batches by token budget, cache --> Reward
    anyone --HTTP--> routes.py --> score_request

service.py is the plain class; run.py deploys it for a job, and `build` is for Serve itself:

    serve run services.reward:app task='{"type": "hidden_trap_grid"}'
    serve deploy deploy/serve/reward.yaml

A replica gets its models by `user_config`: a new one is loaded without a restart.
"""
# No `from __future__ import annotations`: Serve reads the annotation of `build` as a class.

import logging
import os
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.context import _get_global_client  # the only way to learn a running instance's address
from ray.serve.schema import LoggingConfig

from polyray.config.serve import RewardServeConfig
from polyray.config.service import ServiceSpec
from polyray.serving.auth import TOKEN_VARIABLE, is_local, token_from_environment
from polyray.serving.reward.batching import RETRY_AFTER_S
from polyray.serving.reward.configuration import ReplicaConfiguration
from polyray.serving.reward.routes import build_http_app
from polyray.serving.reward.service import RewardService

logger = logging.getLogger(__name__)

APP_VERSION = "1"
"""Fixed version: Serve restarts replicas if it changes; otherwise a new user_config only reconfigures them."""


class DeployedRewardService(RewardService):
    """The service in a replica of Serve, which asks it for its routes."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http_app(self, self.token)


class SelfReliantRewardService(DeployedRewardService):
    """Started by Serve itself, without a driver of ours: its token comes from the environment of its process."""

    def __init__(self, spec: ServiceSpec) -> None:
        super().__init__(spec, token_from_environment())
        client = _get_global_client()
        host = client.http_config.host if client is not None else None
        if self.token is None and not is_local(host):
            logger.warning(
                "WARNING: %s is open to everyone in reach; set %s in the replicas' environment to require a token",
                host,
                TOKEN_VARIABLE,
            )


class RunRewardService(DeployedRewardService):
    """Started by a job: the user's code opens relative files where the job was started."""

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Enters the job's directory, where this machine has it."""
        directory = ReplicaConfiguration.from_json(user_config).directory
        if os.path.isdir(directory):
            os.chdir(directory)
        await super().reconfigure(user_config)


def build_reward_app(
    configuration: ReplicaConfiguration, token: SecretStr | None, spec: ServiceSpec
) -> Application:
    """The deployment, bound."""
    return _deployment(RunRewardService, spec, configuration.as_json()).bind(spec, token)


def build(args: RewardServeConfig) -> Application:
    """Application for `serve run services.reward:app key=value ...` and import_path of Serve's configuration."""
    spec = args.how_it_runs
    user_config = args.model_dump(mode="json", exclude_defaults=True, exclude={"ray"})
    return _deployment(SelfReliantRewardService, spec, user_config).bind(spec)


def _deployment(
    service: type[RewardService], spec: ServiceSpec, user_config: dict[str, Any]
) -> serve.Deployment:
    scaling = spec.autoscaling
    replicas: dict[str, Any] = {"num_replicas": spec.num_replicas}
    if scaling is not None:
        replicas = {
            "autoscaling_config": AutoscalingConfig(
                initial_replicas=spec.num_replicas,
                min_replicas=scaling.min_replicas,
                max_replicas=scaling.max_replicas,
                target_ongoing_requests=scaling.target_ongoing_requests,
                upscale_delay_s=scaling.upscale_delay_s,
                downscale_delay_s=scaling.downscale_delay_s,
            )
        }
    return serve.deployment(serve.ingress(None)(service)).options(
        name="reward",
        **replicas,
        ray_actor_options={
            "num_cpus": spec.num_cpus,
            "num_gpus": spec.num_gpus,
            "label_selector": spec.node_labels,
        },
        user_config=user_config,
        max_ongoing_requests=spec.max_ongoing_requests,
        max_queued_requests=spec.max_queued_batches * spec.max_batch_size,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        health_check_period_s=2.0,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LoggingConfig(
            log_level="WARNING", enable_access_log=False
        ),  # a line per call is measurable
        version=APP_VERSION,
        _internal=True,  # Serve lets only itself name a version
    )
