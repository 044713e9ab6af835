"""The HTTP services on a Ray of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from polyray.config.generation import GenerationServeConfig
from polyray.config.serve import RewardServeConfig

if TYPE_CHECKING:
    from pydantic import SecretStr

    from polyray.serving.generation.run import GenerationServiceAddress
    from polyray.serving.generation.tokens import TokenBook
    from polyray.serving.reward.run import RewardServiceAddress


@contextmanager
def open_generation(
    config: GenerationServeConfig,
) -> Iterator[tuple[GenerationServiceAddress, TokenBook]]:
    """The service on a Ray of its own, until the block ends."""
    from polyray.cluster.session import ray_session
    from polyray.models.base_files import resolve_model_dir
    from polyray.serving.generation.run import start_generation_service, stop_generation_service
    from polyray.serving.generation.tokens import TokenBook

    check_generation(config)
    resolve_model_dir(config.model)
    book = TokenBook.load(config.tokens_file)
    with ray_session(config.ray) as dashboard:
        print(f"Ray dashboard: {dashboard}", flush=True)
        address = start_generation_service(config, book)
        try:
            yield address, book
        finally:
            stop_generation_service(config)


def check_generation(config: GenerationServeConfig) -> None:
    """Reads reward and adapters of the service. Raises ConfigError and MissingFile."""
    from polyray.rewards import plan_reward
    from polyray.serving.generation.sources import check_configured

    if config.reward is not None:
        plan_reward(config.reward, config.task, config.diversity)
    check_configured(config)


@contextmanager
def open_reward_models(config: RewardServeConfig) -> Iterator[tuple[RewardServiceAddress, SecretStr | None]]:
    """The service on a Ray of its own, and the token that it asks for, until the block ends."""
    from polyray.cluster.session import ray_session
    from polyray.serving.auth import token_from_environment
    from polyray.serving.reward.configuration import ReplicaConfiguration
    from polyray.serving.reward.run import start_reward_service, stop_reward_service

    check_reward_models(config)
    token = token_from_environment()
    with ray_session(config.ray):
        models = ReplicaConfiguration.from_config(config)
        address = start_reward_service(config.name, models, token, spec=config.how_it_runs)
        try:
            yield address, token
        finally:
            stop_reward_service(config.name)


def check_reward_models(config: RewardServeConfig) -> None:
    """Reads the files of all reward models. Raises ConfigError and MissingFile."""
    from polyray.rewards import plan_reward

    for spec in config.specs.values():
        plan_reward(spec, config.task, config.diversity)
