"""The file of polyray train_reward: what people react to, learnt from records or preference pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.curate import SourceSpec
from polyray.config.learner import LearnerSpec
from polyray.config.paths import FilePath, NameOrPath
from polyray.config.run_base import RunBase

FeatureName = Literal["log_characters", "log_words", "questions", "digits", "capitals"]
"""Explicit features of the completion beside its embedding (shelf/preferences/reward_model/features.py)."""


class RewardDataSpec(StrictModel):
    """Records or pairs, and the part of them that this model may see."""

    path: FilePath | None = Field(
        default=None,
        description="a run of polyray curate, or a file of records or of {prompt, chosen, rejected}",
    )
    source: SourceSpec | None = Field(default=None, description="instead of path: a raw file, not curated")
    phase: Literal["sft", "rl"] | None = Field(
        default=None, description="only training records of this phase; null: of both"
    )
    half: Literal["all", "train", "eval"] = Field(
        default="all",
        description="two models of different halves share no cluster, in training or validation",
    )
    split_seed: int = Field(
        default=0,
        ge=0,
        description="of halves, and of parts where rows have none; the same for models that are to be independent",
    )
    validation_share: float = Field(
        default=0.1, gt=0, lt=1, description="of the clusters, where rows have no part; never tested on"
    )
    test_share: float = Field(default=0.1, ge=0, lt=1, description="likewise; left out here")
    min_gap: float = Field(
        default=0.0, ge=0, description="least difference in engagement of a pair, on the data's own scale"
    )

    @model_validator(mode="after")
    def _one_place(self) -> RewardDataSpec:
        if (self.path is None) == (self.source is None):
            raise ValueError("give either data.path or data.source")
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share={self.validation_share} + test_share={self.test_share} leave nothing to train on"
            )
        return self


class EncoderSpec(StrictModel):
    """The sentence encoder below the head."""

    name: NameOrPath = Field(
        default="packaged", description="a sentence-transformers directory or hub name; packaged: MiniLM-L6"
    )
    fine_tune: bool = Field(
        default=False, description="gradients through the encoder; false: texts are embedded once"
    )
    learning_rate: float = Field(default=2e-5, gt=0, description="of the encoder, where it is fine-tuned")
    licence: str | None = Field(default=None, description="for the card; null: known for packaged alone")


class HeadSpec(StrictModel):
    """The network over prompt and completion embeddings."""

    width: int = Field(default=128, ge=0, description="hidden units; 0: linear")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="of the hidden units")
    input_dropout: float = Field(default=0.5, ge=0, lt=1, description="of the standardised inputs")
    features: tuple[FeatureName, ...] = Field(
        default=(), description="explicit features; a model with them is easier to understand, and to deceive"
    )


class ObjectiveSpec(StrictModel):
    """The loss; formulas: algorithms/preference.py, metrics/preference.py."""

    type: Literal["pairwise", "regression", "both"] = Field(
        default="pairwise",
        description="pairwise: pairs in the right order; regression: engagement; both: their sum",
    )
    pair_weight: Literal["auto", "certainty", "gap", "none"] = Field(
        default="auto", description="auto: certainty of the difference where rows have impressions, else gap"
    )
    target: Literal["auto", "engagement", "log", "rank"] = Field(
        default="auto",
        description="target of regression; auto: engagement if rows have impressions, else log",
    )


class ConfounderSpec(StrictModel):
    """Age and position of a completion, which people's reactions depend on, too."""

    mode: Literal["model", "remove", "ignore"] = Field(
        default="model",
        description="terms beside the text in training only; only pairs of near-equal age and position; nothing",
    )


class RewardLearnerSpec(LearnerSpec):
    """LearnerSpec with the defaults of a head."""

    steps: int = Field(default=400, ge=1, description="optimiser steps")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of AdamW")
    warmup_steps: int = Field(default=20, ge=0, description="steps of linear warm-up")
    lr_schedule: Literal["linear", "cosine"] = Field(
        default="cosine", description="schedule after the warm-up"
    )
    final_lr_share: float = Field(
        default=0.05, ge=0, le=1, description="share of the learning rate at the end"
    )
    weight_decay: float = Field(default=0.1, ge=0, description="weight decay of AdamW")
    micro_batch_rows: int = Field(default=64, ge=1, description="of fine-tuning: rows per forward pass")
    num_threads: int = Field(default=1, ge=1, description="threads of torch")
    checkpoint_every: int = Field(default=100, ge=1, description="steps between checkpoints")

    @model_validator(mode="after")
    def _no_frozen_base(self) -> RewardLearnerSpec:
        if self.sharding != "none":
            raise ValueError(
                f"sharding={self.sharding} is for adapters on a frozen base, in SFT and RL; set sharding=none"
            )
        return self


class RewardStoppingSpec(StrictModel):
    """Validation during training; the model that is kept is always the best one."""

    every: int = Field(default=10, ge=1, description="steps; the last step is evaluated, too")
    metric: Literal["loss", "accuracy"] = Field(default="loss", description="loss: of the objective")
    patience: int | None = Field(
        default=10, ge=1, description="evaluations in a row without an improvement; null: train to the end"
    )
    min_delta: float = Field(default=0.0, ge=0, description="smallest improvement that counts")


class TrainRewardConfig(RunBase):
    """polyray train_reward: one engagement reward model."""

    data: RewardDataSpec
    encoder: EncoderSpec = EncoderSpec()
    head: HeadSpec = HeadSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    confounders: ConfounderSpec = ConfounderSpec()
    learner: RewardLearnerSpec = RewardLearnerSpec()
    stopping: RewardStoppingSpec = RewardStoppingSpec()
    rows_per_step: int = Field(default=256, ge=1, description="pairs, or records, or both so many")
    epochs: float | None = Field(default=None, gt=0, description="passes over them; replaces learner.steps")

    @model_validator(mode="after")
    def _removing_needs_pairs(self) -> TrainRewardConfig:
        if self.confounders.mode == "remove" and self.objective.type != "pairwise":
            raise ValueError(
                f"confounders.mode=remove chooses pairs, and objective.type={self.objective.type} learns from single "
                "completions; set objective.type=pairwise, or confounders.mode=model"
            )
        return self
