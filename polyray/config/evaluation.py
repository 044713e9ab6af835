"""Metrics of an evaluation and their settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from polyray.config.base import StrictModel
from polyray.config.paths import FilePath, NameOrPath

SelectorName = Literal["reward", "logprob", "length", "first", "random", "noisy_user", "diverse"]
TextMetric = Literal["lexical", "self_bleu", "semantic", "reference"]
PAIRWISE_TEXT_METRICS = ("self_bleu", "semantic")
OF_TEXT: dict[TextMetric, tuple[str, ...]] = {
    "lexical": (
        "distinct_1",
        "distinct_2",
        "distinct_3",
        "expectation_adjusted_distinct",
        "type_token_ratio",
        "hdd",
        "compression_ratio",
        "output_entropy",
    ),
    "self_bleu": ("self_bleu",),
    "semantic": ("semantic_distance", "vendi_score"),
    "reference": ("rouge1", "rouge2", "rouge_l"),
}
"""Values of a prompt that each text metric adds."""
OVER_K = ("pass_at", "distinct_correct_at", "best_at", "usq_at")
OF_SAMPLES = ("mean_reward", "completion_length_mean", "truncated_share", "unscored_share")
SMALLER_IS_BETTER = ("self_bleu", "compression_ratio", *OF_SAMPLES[1:])
"""Values of a prompt that nobody wants large."""
ExportName = Literal["human-eval", "evalplus"]
AT_K = re.compile(r"(.+_at)_(\d+)(/.+)?")
"""usq_at_8/first -> usq_at, 8, /first"""


class BertScoreSpec(StrictModel):
    """A model on this machine and the layer of the compared embeddings; nothing is downloaded or guessed."""

    model_path: FilePath = Field(description="directory of the model")
    num_layers: int = Field(ge=1, description="layer of the compared embeddings")


class EvaluationSpec(StrictModel):
    """n samples per held-out prompt; every estimator is unbiased for its k."""

    num_samples: int = Field(default=16, ge=1, description="completions per prompt")
    ks: tuple[int, ...] = Field(default=(1, 2, 4, 8), description="values of k; none may exceed num_samples")
    num_prompts: int | None = Field(
        default=None, ge=1, description="the first so many held-out prompts; null: all"
    )
    selector: SelectorName = Field(default="logprob", description="selector of usq_at_k: it picks one of k")
    more_selectors: tuple[SelectorName, ...] = Field(
        default=(), description="further ones, reported as usq_at_k/NAME"
    )
    allow_self_selection: bool = Field(
        default=False, description="also let a model be judged by picks of the reward it was trained on"
    )
    text_metrics: tuple[TextMetric, ...] = Field(
        default=(),
        description="lexical: distinct-n, EAD, vocabulary, compression; semantic: embedding distance, Vendi; "
        "reference: ROUGE-1, -2 and -L with the prompt's reference",
    )
    encoder: NameOrPath = Field(
        default="packaged",
        description="of semantic metrics: a sentence-transformers name or path, or the packaged MiniLM",
    )
    bert_score: BertScoreSpec | None = Field(
        default=None, description="BERTScore with the references; needs the package bert-score"
    )
    bootstrap_resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of an interval")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="confidence of intervals")
    margin: float | None = Field(
        default=None, gt=0, lt=1, description="non-inferiority margin on pass@1: how much may be lost at most"
    )
    comparisons: Literal["all", "baseline"] = Field(
        default="all", description="all: every pair of models; baseline: each with compare_to only"
    )
    exports: tuple[ExportName, ...] = Field(
        default=(), description="also written in the formats of these tools"
    )
    examples: int = Field(default=12, ge=0, description="prompts with candidates in the report")

    def check_value(self, key: str, name: str) -> None:
        """Raises ValueError if the evaluation has no value `name` of each prompt, e.g. usq_at_8 or mean_reward."""
        over_k = (*OVER_K, *(f"usq_at/{selector}" for selector in self.more_selectors))
        plain = [*OF_SAMPLES, *(value for metric in self.text_metrics for value in OF_TEXT[metric])]
        plain += ["bert_score_f1"] if self.bert_score is not None else []
        found = AT_K.fullmatch(name)
        if name in plain or (found and found[1] + (found[3] or "") in over_k):
            if found and not 1 <= int(found[2]) <= self.num_samples:
                raise ValueError(f"{key}={name!r} needs more samples than num_samples={self.num_samples}")
            return
        needed = [metric for metric, values in OF_TEXT.items() if name in values]
        fix = (
            f"add {needed[0]} to text_metrics"
            if needed
            else f"choose one of {', '.join(_shown(over_k, plain))}"
        )
        raise ValueError(f"{key}={name!r} is not a value of the evaluation's prompts; {fix}")

    @field_validator("ks")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 1:
            raise ValueError(
                f"ks={list(value)} must be ascending positive integers without repeats, e.g. [1, 2, 4, 8]"
            )
        return value

    @model_validator(mode="after")
    def _k_within_samples(self) -> EvaluationSpec:
        if self.ks[-1] > self.num_samples:
            raise ValueError(
                f"k={self.ks[-1]} is larger than num_samples={self.num_samples}: pass@k has no "
                "unbiased estimate; "
                f"raise num_samples or lower k"
            )
        if self.margin is not None and self.ks[0] != 1:
            raise ValueError(
                f"margin={self.margin} is of pass@1, and ks={list(self.ks)} begin with another k; add 1"
            )
        if self.margin is not None and self.confidence <= 0.5:
            raise ValueError(
                f"margin={self.margin} needs a confidence above 0.5, not {self.confidence}: alpha is 1 - confidence"
            )
        pairwise = [name for name in self.text_metrics if name in PAIRWISE_TEXT_METRICS]
        if pairwise and self.num_samples < 2:
            raise ValueError(
                f"text_metrics={pairwise} compare the samples of a prompt with each other, and "
                f"num_samples={self.num_samples}; raise num_samples to 2, or leave them out"
            )
        return self


def _shown(over_k: Sequence[str], plain: Sequence[str]) -> list[str]:
    """pass_at, usq_at/first, mean_reward -> pass_at_K, usq_at_K/first, mean_reward"""
    return [*(name.replace("_at", "_at_K", 1) for name in over_k), *plain]
