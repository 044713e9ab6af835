"""Supervised fine-tuning: its data, its objective, and how it is watched. SftConfig (run.py) composes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.paths import FilePath
from polyray.config.supervised_term import PolychromicSftSpec


class TaskDataSpec(StrictModel):
    """The demonstrations of `task`, in an endless stream."""

    type: Literal["task"] = "task"


class JsonlDataSpec(StrictModel):
    """The user's own conversations: `messages`, or `prompt` and `completion`. Files as those of JsonlSpec."""

    type: Literal["jsonl"] = "jsonl"
    train: FilePath = Field(description="file to train on")
    validation: FilePath | None = Field(default=None, description="file of the validation loss")
    validation_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the prompts of `train`, chosen by a hash; all rows of a prompt are on one side",
    )
    split_seed: int = Field(default=0, ge=0, description="of validation_share")
    train_on: Literal["last_turn", "all_turns"] = Field(
        default="last_turn", description="which assistant turns of a conversation are trained"
    )

    @model_validator(mode="after")
    def _one_validation(self) -> JsonlDataSpec:
        if self.validation is not None and self.validation_share > 0:
            raise ValueError(
                f"validation={self.validation!r} and validation_share={self.validation_share}: "
                "give the one or the other"
            )
        return self

    @property
    def has_validation(self) -> bool:
        """Whether there are rows that training does not see."""
        return self.validation is not None or self.validation_share > 0


SupervisedDataSpec = Annotated[
    TaskDataSpec | JsonlDataSpec, Field(discriminator="type"), BeforeValidator(default_type("task"))
]


class CrossEntropySpec(StrictModel):
    """Maximum likelihood."""

    type: Literal["cross_entropy"] = "cross_entropy"


class GemSpec(StrictModel):
    """GEM (arXiv 2408.16673): leaves the model more of its spread."""

    type: Literal["gem"] = "gem"
    beta: float = Field(default=0.7, gt=0, description="1 with a linear link is cross-entropy's gradient")
    link: Literal["linear", "logsigmoid"] = Field(
        default="linear", description="link function of the weights"
    )


class BaLoraSpec(StrictModel):
    """BA-LoRA (arXiv 2408.04556) for generation: principal-component start, cross-entropy, and three regularisers.

    Consistency with the untrained model, entropy of the likeliest tokens, and spectrum of the logits; formulas and
    what is our reading of them: polyray/algorithms/regularizers.py.
    """

    type: Literal["ba_lora"] = "ba_lora"
    consistency_weight: float = Field(default=0.025, ge=0, description="weight of the consistency term")
    diversity_weight: float = Field(
        default=0.005, ge=0, description="weight of the entropy of the likeliest tokens"
    )
    spectral_weight: float = Field(default=0.005, ge=0, description="weight of the spectral term")
    temperature: float = Field(default=2.0, gt=0, description="of consistency")
    top_tokens: int = Field(default=20, ge=2, description="of diversity")
    top_values: int = Field(
        default=10, ge=1, description="singular values that the spectrum should consist of"
    )


SupervisedObjectiveSpec = Annotated[
    CrossEntropySpec | GemSpec | BaLoraSpec | PolychromicSftSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("cross_entropy")),
]


class EarlyStoppingSpec(StrictModel):
    """Stop when the validation loss no longer falls; the final adapter is then the best one."""

    patience: int = Field(default=3, ge=1, description="evaluations in a row without an improvement")
    min_delta: float = Field(default=0.0, ge=0, description="nats per token that count as an improvement")


class SupervisedEvaluationSpec(StrictModel):
    """Validation loss and a few samples during training."""

    every: int | None = Field(
        default=None, ge=1, description="steps; the last step is evaluated, too. null: never"
    )
    num_rows: int = Field(default=256, ge=1, description="at most so many validation rows")
    num_samples: int = Field(default=0, ge=0, description="completions written to samples/ each time")
    max_new_tokens: int = Field(default=64, ge=1, description="longest sample")
    temperature: float = Field(default=1.0, ge=0, description="0: greedy")
    early_stopping: EarlyStoppingSpec | None = None

    @model_validator(mode="after")
    def _stopping_needs_evaluations(self) -> SupervisedEvaluationSpec:
        if self.early_stopping is not None and self.every is None:
            raise ValueError("early_stopping without evaluations; set every (steps between them)")
        return self
