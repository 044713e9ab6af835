"""Evaluation while training: rounds on fixed prompts, the best version, when to stop.

Without `evaluation` these rounds are separate and few, so that they cost little; with it, its rounds are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import NameOrPath
from polyray.config.text_tasks import TextTaskSpec

ROUND_KS = (1, 2, 4, 8)
"""The k of pass@k and its like, as far as there are so many completions."""
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

PromptsPart = Literal["auto", "validation", "held_out"]


@dataclass(frozen=True, slots=True)
class EvalSchedule:
    """When a run is evaluated, e.g. EvalSchedule(every=12, last=60)."""

    every: int | None
    """Steps or versions between evaluations; None: never."""
    last: int
    """Steps of the whole run; there is an evaluation after the last one."""

    def due(self, step: int) -> bool:
        """Whether there is an evaluation after `step` steps; 0 is before the first one."""
        return self.every is not None and (step % self.every == 0 or step == self.last)

    @property
    def count(self) -> int:
        """Evaluations of a whole run, that of step 0 included."""
        return 0 if self.every is None else len({*range(0, self.last + 1, self.every), self.last})


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """When fixed prompts are evaluated, which ones, and how.

    Example:
        EvalPlan(EvalSchedule(every=12, last=60), prompts="auto", num_prompts=16, num_samples=8)
    """

    schedule: EvalSchedule
    prompts: PromptsPart
    num_prompts: int
    num_samples: int
    from_training: bool = False
    """Whether a task without any other prompts is asked the first ones of its training, instead of refused."""
    semantic_distances: bool = False
    """Whether the distances that scoring brings are those of meaning."""
    encoder: str | None = None
    """Encoder for distances of meaning; None: no such distances."""

    @property
    def ks(self) -> tuple[int, ...]:
        """The k for which there are samples for an unbiased estimate."""
        return tuple(k for k in ROUND_KS if k <= self.num_samples)


class DynamicsSpec(StrictModel):
    """Fixed prompts with fixed seeds, for trajectories: dynamics.jsonl."""

    every: int | None = Field(
        default=None,
        ge=1,
        description="versions between rounds; null: as few as keep the rounds below max_share",
    )
    max_share: float = Field(
        default=0.04,
        gt=0,
        le=1,
        description="most samples of the rounds, as a share of the completions that training samples; with "
        "every=null",
    )
    prompts: PromptsPart = Field(
        default="auto",
        description="the task's part; auto: its validation part, else the first prompts of training",
    )
    num_prompts: int = Field(default=16, ge=1, description="prompts of a round")
    num_samples: int = Field(default=8, ge=1, description="completions per prompt")
    encoder: NameOrPath | None = Field(
        default="auto",
        description="semantic_diversity, by this sentence encoder (packaged: MiniLM); auto: packaged where answers "
        "are prose; null: only where diversity.source=embedding measures it anyway",
    )

    def plan(self, steps: int, samples_per_step: int) -> EvalPlan:
        """Evaluations of a run of `steps` steps."""
        schedule = EvalSchedule(self.every or self._affordable(steps, samples_per_step), steps)
        return EvalPlan(schedule, self.prompts, self.num_prompts, self.num_samples, self.prompts == "auto")

    def encoder_for(self, task: StrictModel) -> str | None:
        """The encoder of a run on this task; None: there is none."""
        if self.encoder != "auto":
            return self.encoder
        return "packaged" if isinstance(task, TextTaskSpec) else None

    def _affordable(self, steps: int, samples_per_step: int) -> int:
        """Versions between rounds; there are always two rounds, before the first step and after the last one."""
        budget = self.max_share * steps * samples_per_step / (self.num_prompts * self.num_samples)
        return max(1, math.ceil(steps / max(1, math.floor(budget) - 1)))


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
    min_delta: float = Field(default=0.0, ge=0, description="an improvement has to be larger than this")

    def plan(self, steps: int) -> EvalPlan:
        """Evaluations of a run of `steps` steps."""
        return EvalPlan(EvalSchedule(self.every, steps), "validation", self.num_prompts, self.num_samples)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Allowed values of `best_metric`."""
        ks = self.plan(0).ks
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
