"""Configuration of a replica, as Serve's `user_config`: plain JSON, so that it is loaded without a restart.

Two forms: `plans`, made by start_reward_service on the driver, where the user's files travel as text; and the keys of
RewardServeConfig, as a person writes them into a Serve configuration file, where paths are read on the replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from polyray.config.loader import build_config
from polyray.config.serve import SINGLE_MODEL, RewardServeConfig
from polyray.config.service import ServiceSpec
from polyray.errors import ConfigError
from polyray.rewards import RewardPlan, plan_reward

_PLANS = TypeAdapter(dict[str, RewardPlan])


@dataclass(frozen=True)
class ReplicaConfiguration:
    """Reward models by name, the default first.

    Example:
        ReplicaConfiguration({"reward": RewardPlan(...)}, revision="2")
    """

    plans: Mapping[str, RewardPlan]
    revision: str = ""

    @property
    def default_spec(self) -> ServiceSpec:
        """Service settings of the first reward."""
        return next(iter(self.plans.values())).reward.service

    @property
    def directory(self) -> str:
        """Directory of the command."""
        return next(iter(self.plans.values())).directory

    @classmethod
    def of(cls, plan: RewardPlan) -> ReplicaConfiguration:
        """One model."""
        return cls({SINGLE_MODEL: plan})

    @classmethod
    def from_config(cls, config: RewardServeConfig) -> ReplicaConfiguration:
        """Configuration from a file; reads the user's files. Raises ConfigError."""
        plans = {
            name: plan_reward(spec, config.task, config.diversity) for name, spec in config.specs.items()
        }
        return cls(plans, config.revision)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ReplicaConfiguration:
        """Configuration from either form. Raises ConfigError naming what is wrong."""
        if "plans" not in value:
            return cls.from_config(build_config(RewardServeConfig, dict(value), "user_config"))
        try:
            return cls(_PLANS.validate_python(value["plans"]), value["revision"])
        except ValidationError as error:
            raise ConfigError(f"user_config.plans: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The form with `plans`."""
        return {
            "plans": _PLANS.dump_python(dict(self.plans), mode="json"),
            "revision": self.revision,
        }
