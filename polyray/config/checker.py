"""Definition of a pass: a verifier, or a quality with a threshold fixed on validation data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from polyray.config.base import StrictModel, default_type
from polyray.config.paths import NameOrPath
from polyray.config.reward import RewardSpec


class VerifierCheckerSpec(StrictModel):
    """The task's verifier says 1. For tasks that have one."""

    type: Literal["verifier"] = "verifier"


class ThresholdSpec(StrictModel):
    """A pass is a quality of at least the threshold."""

    threshold: float | None = Field(
        default=None, ge=0, le=1, description="null: `threshold_quantile` on the validation prompts"
    )
    threshold_quantile: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of the quality of the human texts for the validation prompts; 0.5: as good as half of them",
    )


class HeuristicCheckerSpec(ThresholdSpec):
    """The task's heuristic quality: plausible and clean, not necessarily good."""

    type: Literal["heuristic"] = "heuristic"


class RewardThresholdCheckerSpec(ThresholdSpec):
    """A reward; not the one that was trained on, or a pass means little."""

    type: Literal["reward_threshold"] = "reward_threshold"
    reward: RewardSpec | None = Field(default=None, description="null: the reward of the job's file")


class JudgeCheckerSpec(ThresholdSpec):
    """The score of the job's judge, in [0, 1]."""

    type: Literal["judge"] = "judge"


class ReferenceCheckerSpec(ThresholdSpec):
    """Closeness of a text to the prompt's reference; another good answer may be far from it."""

    type: Literal["reference"] = "reference"
    measure: Literal["rouge_l", "embedding"] = Field(
        default="rouge_l", description="F1 of the longest common word sequence, or cosine of embeddings"
    )
    encoder: NameOrPath = Field(
        default="packaged",
        description="of measure=embedding: a sentence-transformers directory or hub name, or packaged (MiniLM)",
    )


CheckerSpec = Annotated[
    VerifierCheckerSpec
    | HeuristicCheckerSpec
    | RewardThresholdCheckerSpec
    | JudgeCheckerSpec
    | ReferenceCheckerSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("verifier")),
]
