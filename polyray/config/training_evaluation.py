"""Validation while training: which prompts, how often, which version is the best, when to stop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.dynamics import Rounds

OVER_SUBSETS = ("pass_at", "distinct_correct_at", "best_at")
"""Metrics that are estimated for every k of `ROUND_KS` up to num_samples, e.g. pass_at_8."""
PLAIN_METRICS = (
    "reward_mean",
    "diversity",
    "distinct_classes",
    "sequence_entropy",
    "completion_length_mean",
    "truncated_share",
)


OF_PAIRS = ("diversity",)
"""Metrics that need two completions of a prompt."""


class TrainingEvaluationSpec(StrictModel):
    """The task's validation prompts, with the same seeds at every so many versions.

    They are neither trained on nor held out, so that choices leave the held-out prompts unseen. `diversity` is the
    mean pairwise distance.
    """

    every: int = Field(
        default=10, ge=1, description="versions; version 0 and the last one are always validated"
    )
    num_prompts: int = Field(default=64, ge=1, description="validation prompts of a round")
    num_samples: int = Field(default=8, ge=1, description="completions per prompt")
    best_metric: str = Field(
        default="pass_at_1",
        description="pass_at_K, distinct_correct_at_K, best_at_K (K: 1, 2, 4, 8), reward_mean, diversity, ...; "
        "the best version's adapter is kept as best/. By default reward_mean where no reward of 1 can come",
    )
    best_mode: Literal["max", "min"] = Field(
        default="max", description="whether a larger or a smaller value is better"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="the run ends after so many validations without improvement; null: never",
    )
    min_delta: float = Field(default=0.0, ge=0, description="what counts as an improvement is more than this")

    def rounds(self, steps: int) -> Rounds:
        """Rounds of a run of `steps` steps."""
        return Rounds(self.every, steps, "validation", self.num_prompts, self.num_samples)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Allowed values of `best_metric`."""
        ks = self.rounds(0).ks
        plain = [name for name in PLAIN_METRICS if name not in OF_PAIRS or self.num_samples > 1]
        return (*(f"{name}_{k}" for name in OVER_SUBSETS for k in ks), *plain)

    @model_validator(mode="after")
    def _metric_exists(self) -> TrainingEvaluationSpec:
        if self.best_metric not in self.metric_names:
            raise ValueError(
                f"best_metric={self.best_metric!r} is not measured with num_samples={self.num_samples}; "
                f"choose one of {', '.join(self.metric_names)}, or raise num_samples"
            )
        return self
