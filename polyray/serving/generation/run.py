"""Starts and stops a generation service on the Ray that this process is connected to.

Everything is named by the configuration: applications NAME-generation at `route_prefix` and, with a reward,
NAME-reward, which has no route. One Serve instance, and so one HTTP address, belongs to a Ray cluster.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ray import serve

from polyray.config.generation import GenerationServeConfig
from polyray.config.gpu_share import engines_on_one_gpu
from polyray.errors import RolloutError
from polyray.rewards import plan_reward
from polyray.rollout.vllm_build import check_build_for
from polyray.serving.generation.app import build_generation_app
from polyray.serving.generation.tokens import TokenBook
from polyray.serving.reward.run import StartingRewardService, deploy_reward_service, stop_reward_service
from polyray.serving.serve_instance import (
    Listening,
    ensure_serve,
    reachable,
    stop_application,
    wait_until_running,
)


@dataclass(frozen=True, slots=True)
class GenerationServiceAddress:
    """Address of a started service.

    Example:
        GenerationServiceAddress(app_name="generation-generation", url="http://127.0.0.1:8000")
    """

    app_name: str
    url: str
    """URL without a slash at its end: OpenAI's client takes `url + "/v1"`."""


def generation_app_name(name: str) -> str:
    """The Serve application of a generation service."""
    return f"{name}-generation"


def start_generation_service(config: GenerationServeConfig, book: TokenBook) -> GenerationServiceAddress:
    """Deploys the service, and its reward, replacing leftovers of the same name; waits until it answers.

    Raises ConfigError where its engine needs another build of vLLM, ResourceError where the port is taken or no
    replica can be placed, RolloutError where a replica cannot start, RewardError where the reward cannot. Needs an
    initialised Ray.
    """
    check_build_for(config.num_gpus, config.node_labels, "num_gpus")
    limit_s = config.limits.request_timeout_s
    host, port = ensure_serve(Listening(config.host, config.port, limit_s, "", guarded=book.needs_token))
    app_name = generation_app_name(config.name)
    if app_name in serve.status().applications:
        serve.delete(app_name)
    reward = _deploy_reward(config)
    try:
        reward_app = None if reward is None else reward.address.app_name
        application = build_generation_app(config, book, reward_app, os.getcwd())
        target = serve.RunTarget(application, name=app_name, route_prefix=config.route_prefix)
        serve.run_many([target], wait_for_applications_running=False)
        if reward is not None:
            reward.wait()
        needs = (
            f"{config.num_replicas} x {config.num_cpus:g} CPUs and {config.num_gpus:g} GPUs: raise ray.num_cpus, or "
            "lower num_replicas or num_cpus"
        )
        wait_until_running(app_name, "the generation service", start_timeout_s(config), needs, RolloutError)
    except BaseException:
        stop_generation_service(config)
        raise
    prefix = config.route_prefix.rstrip("/")
    return GenerationServiceAddress(app_name, f"http://{reachable(host)}:{port}{prefix}")


def start_timeout_s(config: GenerationServeConfig) -> float:
    """Limit until all replicas answer, in seconds: engines on one GPU start one after another."""
    return config.engine.start_timeout_s * engines_on_one_gpu(config.num_gpus, config.num_replicas)


def stop_generation_service(config: GenerationServeConfig) -> None:
    """Removes the service and its reward; does nothing where there is none. Serve itself stays for others."""
    stop_application(generation_app_name(config.name))
    if config.reward is not None:
        stop_reward_service(config.name)


def _deploy_reward(config: GenerationServeConfig) -> StartingRewardService | None:
    """Deploy the reward that scores candidates; None without a reward, or for a service elsewhere."""
    if config.reward is None:
        return None
    plan = plan_reward(config.reward, config.task, config.diversity)
    if plan.is_remote:
        return None
    service = config.reward.service.model_copy(update={"port": 0, "host": config.host})
    return deploy_reward_service(config.name, plan, spec=service, over_http=False)
