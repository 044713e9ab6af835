"""polyray evaluate reward: which scorers are validated on which held-out engagement, and how."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath
from polyray.config.reward import RewardSpec, VerifierRewardSpec
from polyray.config.run_base import RunBase
from polyray.config.task import TaskSpec
from polyray.config.text_tasks import SocialRepliesSpec

REWARD_VALIDATION = "reward_validation"
"""`kind` in the metrics.json of a validation: its models are scorers, without pass@k."""
Part = Literal["train", "validation", "test"]
Direction = Literal["learn", "higher", "lower"]
ProbeName = Literal[
    "padded_filler",
    "padded_repeated",
    "truncated",
    "last_sentence_repeated",
    "emoji",
    "exclamation_marks",
    "prompt_copied",
    "empty",
    "words_shuffled",
    "other_prompt",
    "uppercase",
]
RUINED: tuple[ProbeName, ...] = ("prompt_copied", "empty", "words_shuffled", "other_prompt")
"""Alterations that make any completion worse; of the others an honest reward may like some."""


class EngagementScorerSpec(StrictModel):
    """An engagement model of polyray train_reward, by its directory."""

    type: Literal["engagement"] = "engagement"
    path: FilePath = Field(description="e.g. runs/reward-train/model")


class RewardScorerSpec(StrictModel):
    """Any reward a training run could use."""

    type: Literal["reward"] = "reward"
    reward: RewardSpec = Field(default=VerifierRewardSpec(), description="the reward")
    task: TaskSpec = SocialRepliesSpec()


class TaskScorerSpec(StrictModel):
    """The heuristic quality of a task."""

    type: Literal["task"] = "task"
    task: TaskSpec = SocialRepliesSpec()


class LengthScorerSpec(StrictModel):
    """The length alone."""

    type: Literal["length"] = "length"
    unit: Literal["characters", "words"] = Field(default="characters", description="unit of the length")
    shape: Literal["monotone", "curve"] = Field(
        default="monotone",
        description="monotone: longer, or shorter, is better; curve: how often each decile of length wins on the "
        "train and validation parts",
    )
    direction: Direction = Field(
        default="learn", description="of monotone; learn: what is right more often on train and validation"
    )


class NgramSpec(StrictModel):
    """Words, interpolated (Witten-Bell), trained on the completions of the training part."""

    type: Literal["ngram"] = "ngram"
    order: int = Field(default=3, ge=1, le=5, description="longest n-gram")


class LogprobScorerSpec(StrictModel):
    """Mean log-probability of the completion's tokens under a language model."""

    type: Literal["logprob"] = "logprob"
    model: NgramSpec = Field(default=NgramSpec(), description="the language model")
    direction: Direction = Field(
        default="learn",
        description="whether a higher or a lower value is better; learn: by the training part",
    )


class RandomScorerSpec(StrictModel):
    """A number drawn from the texts by hash: what chance looks like."""

    type: Literal["random"] = "random"


ScorerSpec = Annotated[
    EngagementScorerSpec
    | RewardScorerSpec
    | TaskScorerSpec
    | LengthScorerSpec
    | LogprobScorerSpec
    | RandomScorerSpec,
    Field(discriminator="type"),
]


class ValidationDataSpec(StrictModel):
    """The held-out records, and what baselines and scales are fitted on."""

    path: FilePath = Field(
        description="a run of polyray curate data, or a file of records or of {prompt, chosen, rejected}"
    )
    part: Part = Field(default="test", description="validated on; where the file names no parts: all of it")
    min_gap: float = Field(
        default=0.0,
        ge=0,
        description="pairs with a smaller difference of engagement do not count; equal ones never do",
    )


class ProbeSpec(StrictModel):
    """Altered texts that a reward must not fall for."""

    names: tuple[ProbeName, ...] = Field(default=get_args(ProbeName), description="the alterations")
    num_completions: int = Field(
        default=300, ge=0, description="held-out completions, drawn by seed; 0: none"
    )


class RewardValidationConfig(RunBase):
    """polyray evaluate reward."""

    data: ValidationDataSpec
    models: dict[str, ScorerSpec] = Field(min_length=1, description="name -> what is validated")
    baselines: dict[str, ScorerSpec] = Field(
        default={
            "length": LengthScorerSpec(),
            "length curve": LengthScorerSpec(shape="curve"),
            "log-prob": LogprobScorerSpec(),
            "random": RandomScorerSpec(),
        },
        description="name -> what every model is compared with",
    )
    probes: ProbeSpec = ProbeSpec()
    min_slice_pairs: int = Field(default=30, ge=1, description="smaller slices are shown but never the worst")
    max_unscored_share: float = Field(default=0.05, ge=0, le=1, description="above it the run stops")
    bootstrap_resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of an interval")
    permutations: int = Field(default=10_000, ge=100, description="permutations of a test")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="confidence of intervals")

    @field_validator("models", "baselines")
    @classmethod
    def _writable_names(cls, value: dict[str, ScorerSpec]) -> dict[str, ScorerSpec]:
        bad = [name for name in value if not name.strip() or "/" in name or name.startswith(".")]
        if bad:
            raise ValueError(f"the name {bad[0]!r} becomes a file name; write it without '/' and leading '.'")
        return value

    @model_validator(mode="after")
    def _names_once(self) -> RewardValidationConfig:
        twice = [name for name in self.models if name in self.baselines]
        if twice:
            raise ValueError(f"{twice[0]!r} is a model and a baseline; give one of them another name")
        return self

    @property
    def scorers(self) -> dict[str, ScorerSpec]:
        """Models, then baselines."""
        return {**self.models, **self.baselines}
