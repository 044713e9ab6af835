"""The files that polyray serve and `serve run services.reward:app` read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.reward import DiversitySpec, RewardSpec, VerifierRewardSpec
from polyray.config.run import RaySpec, RunName
from polyray.config.service import ServiceSpec
from polyray.config.task import HiddenTrapGridSpec, TaskSpec

SINGLE_MODEL = "reward"
"""The name of the model of a service that has one."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class RewardServeConfig(StrictModel):
    """A reward service of its own, for evaluation, scripts and other programs.

    Either `reward`, or several `models` by name: the first is what requests get that name none.
    """

    service: Literal["reward"] = "reward"
    name: RunName = Field(default="serve", description="name of the Serve application")
    task: TaskSpec = HiddenTrapGridSpec()
    reward: RewardSpec = VerifierRewardSpec()
    models: dict[ModelName, RewardSpec] = Field(
        default_factory=dict,
        max_length=16,
        description="reward models side by side; every replica holds all of them; `reward.service` says how they run",
    )
    diversity: DiversitySpec = DiversitySpec()
    revision: str = Field(
        default="",
        max_length=64,
        description="anything; a new value makes replicas read their models again although no path has changed",
    )
    ray: RaySpec = RaySpec(num_cpus=4)

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("models"):
            reward = values.get("reward")
            if isinstance(reward, dict) and set(reward) - {"service"}:
                raise ValueError(
                    "`reward` and `models` both name reward models; with `models`, `reward` may only hold `service`"
                )
        return values

    @field_validator("models")
    @classmethod
    def _one_way_to_run(cls, models: dict[str, RewardSpec]) -> dict[str, RewardSpec]:
        for name, reward in models.items():
            if "service" in reward.model_fields_set:
                raise ValueError(
                    f"models.{name}.service: the models of a replica run alike; set reward.service instead"
                )
        return models

    @property
    def specs(self) -> dict[str, RewardSpec]:
        """Name -> reward, the default first."""
        return dict(self.models) or {SINGLE_MODEL: self.reward}

    @property
    def how_it_runs(self) -> ServiceSpec:
        """Replicas, batches, address and limits of the whole service."""
        return self.reward.service
