"""Tasks: their prompts, and how a completion is judged. A union on `type`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.paths import FilePath
from polyray.config.text_tasks import CreativeWritingSpec, HeadlinesSpec, SocialRepliesSpec
from polyray.config.verifiable_tasks import CodeSpec, MathSpec, QuestionAnsweringSpec


class HiddenTrapGridSpec(StrictModel):
    """Plan a path on a board with hidden traps: k attempts are worth more than one."""

    type: Literal["hidden_trap_grid"] = "hidden_trap_grid"
    trap_probability: float = Field(default=0.15, ge=0, lt=1, description="probability that a cell is a trap")
    salt: str = Field(default="polyray", description="decides where the traps are")
    num_held_out_pairs: int = Field(
        default=200, ge=1, le=800, description="start-goal pairs that training never sees"
    )
    held_out_ids_per_pair: int = Field(
        default=10, ge=1, le=100, description="200 pairs x 10 ids = 2,000 held-out prompts"
    )


class JsonlSpec(StrictModel):
    """The user's own prompts: `prompt` or `messages`; `reference`, `metadata`, `id`, `cluster`, `response` (SFT)."""

    type: Literal["jsonl"] = "jsonl"
    path: FilePath | None = Field(
        default=None,
        description="JSON Lines (.gz), Parquet, or a directory that save_to_disk of `datasets` wrote; null: only "
        "the prompts of `held_out_path`, to evaluate",
    )
    held_out_path: FilePath | None = Field(
        default=None,
        description="the held-out prompts; null: the share `held_out_share` of `path`. It may share no prompt and no "
        "cluster with `path`",
    )
    held_out_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="of the clusters (else prompts) of `path`, at least one; by a hash",
    )
    validation_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="of the clusters of `path`: neither trained nor tested on, for `evaluation`; rounded, so small "
        "files have none",
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the split")

    @model_validator(mode="after")
    def _something_to_train_on(self) -> JsonlSpec:
        if self.path is None and self.held_out_path is None:
            raise ValueError("path is missing: give a file of prompts")
        if self.held_out_share + self.validation_share >= 1:
            raise ValueError(
                f"held_out_share={self.held_out_share} and validation_share={self.validation_share} leave nothing to "
                "train on; together they must stay below 1"
            )
        return self


TaskSpec = Annotated[
    HiddenTrapGridSpec
    | JsonlSpec
    | CodeSpec
    | MathSpec
    | QuestionAnsweringSpec
    | SocialRepliesSpec
    | HeadlinesSpec
    | CreativeWritingSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("hidden_trap_grid")),
]
