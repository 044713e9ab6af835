"""Cross-entropy on demonstrations beside an objective of samples: `supervised`, and polychromic SFT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polyray.config.algorithm import PolychromicSpec
from polyray.config.base import StrictModel
from polyray.config.delivery import DeliverySpec
from polyray.config.reward import DiversitySpec, RewardSpec, VerifierRewardSpec
from polyray.config.rollout import RolloutSpec


class SupervisedTermSpec(StrictModel):
    """The task's demonstrations in every update: polychromic SFT, or RL that must not forget."""

    weight: float = Field(
        default=1.0, gt=0, description="weight of the cross-entropy in nats per response token"
    )
    demonstrations_per_step: int = Field(default=64, ge=1, description="demonstrations of an update")
    max_tokens: int = Field(default=64, ge=2, description="longest prompt + response")


class PolychromicSftSpec(PolychromicSpec):
    """L = CE - lambda D, where D is that of sets of samples which rollout workers draw on the task's prompts.

    The gradient of D is the score-function estimator with set credits; `diversity_weight` is lambda, in nats per
    response token against a D in [0, 1].
    """

    quality_weight: float = Field(
        default=0.0, ge=0, description="above 0 the samples' reward is trained, too"
    )
    normalisation: Literal["constant", "token", "sequence", "sum"] = Field(
        default="sum", description="sum: lambda is what it says; see polyray train for the others"
    )
    rollout: RolloutSpec = RolloutSpec()
    delivery: DeliverySpec = DeliverySpec()
    reward: RewardSpec = VerifierRewardSpec()
    diversity: DiversitySpec = DiversitySpec()

    def as_algorithm(self) -> PolychromicSpec:
        """The objective alone, as polyray train knows it."""
        return PolychromicSpec(**{name: getattr(self, name) for name in PolychromicSpec.model_fields})
