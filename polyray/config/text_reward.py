"""Rewards of texts that nothing can verify: a learnt model, a judge, and a heuristic that needs neither."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.judge import JudgeSpec
from polyray.config.paths import BuiltinOrPath, FilePath, NameOrPath
from polyray.config.service import SandboxServiceSpec, ServiceSpec


class EngagementRewardSpec(StrictModel):
    """A model of what people react to, made by polyray train_reward."""

    type: Literal["engagement"] = "engagement"
    path: FilePath = Field(description="its directory, e.g. runs/reward-train/model")
    service: ServiceSpec = ServiceSpec()


class HeuristicWeights(StrictModel):
    """Shares of the parts in the score; 0 leaves a part out."""

    relevance: float = Field(default=0.35, ge=0, description="weight of relevance to the prompt")
    length: float = Field(default=0.2, ge=0, description="weight of a length within `length_band`")
    sentiment: float = Field(default=0.1, ge=0, description="weight of the sentiment")
    uniqueness: float = Field(default=0.2, ge=0, description="weight of words that do not repeat")
    safety: float = Field(default=0.15, ge=0, description="weight of the absence of unsafe words")

    @model_validator(mode="after")
    def _something_counts(self) -> HeuristicWeights:
        if not any(weight for _, weight in self):
            raise ValueError("weights are all 0: there is nothing to score; raise one")
        return self


class HeuristicRewardSpec(StrictModel):
    """Relevance, length, sentiment, uniqueness and safety, weighted: the fallback where nothing was learnt."""

    type: Literal["heuristic"] = "heuristic"
    weights: HeuristicWeights = HeuristicWeights()
    relevance: Literal["words", "embedding"] = Field(
        default="words",
        description="content words in common with the prompt, or cosine of sentence embeddings",
    )
    enough_shared_words: int = Field(
        default=3, ge=1, description="shared words for full relevance, with relevance=words"
    )
    encoder: NameOrPath = Field(
        default="packaged",
        description="encoder of relevance=embedding: a sentence-transformers directory or hub name, or packaged "
        "(MiniLM)",
    )
    length_band: tuple[int, int, int, int] = Field(
        default=(2, 8, 60, 250),
        description="words: 0 up to the first, 1 from the second to the third, 0 from the fourth on",
    )
    unsafe_words: BuiltinOrPath = Field(
        default="builtin",
        description="a text file with a word or phrase a line; builtin: a short English list",
    )
    service: ServiceSpec = ServiceSpec()

    @field_validator("length_band")
    @classmethod
    def _ascending(cls, value: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        low, full_from, full_to, high = value
        if not 0 <= low < full_from <= full_to < high:
            raise ValueError(f"length_band={list(value)} must ascend, e.g. [2, 8, 60, 250]")
        return value


class JudgeRewardSpec(StrictModel):
    """The rubric of an LLM judge: the mean of its criteria, in [0, 1]."""

    type: Literal["judge"] = "judge"
    judge: JudgeSpec
    cache_path: FilePath = Field(
        default="runs/judge-reward/answers.jsonl",
        description="answers are kept here for all replicas and runs that name the same file, and so is the budget",
    )
    service: SandboxServiceSpec = SandboxServiceSpec()
