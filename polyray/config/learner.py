"""Optimisation: shared by SFT and RL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.node_labels import NodeLabels


class LearnerSpec(StrictModel):
    """A Ray Train worker group and its optimiser (AdamW)."""

    steps: int = Field(default=60, ge=1, description="optimiser batches of the run")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of AdamW")
    warmup_steps: int = Field(default=5, ge=0, description="steps of linear warm-up")
    lr_schedule: Literal["linear", "cosine"] = Field(
        default="linear", description="how the rate falls from learning_rate to final_lr_share of it"
    )
    final_lr_share: float = Field(default=1.0, ge=0, le=1, description="1: the rate does not fall")
    updates_per_batch: int = Field(
        default=1, ge=1, description="RL: passes over a batch, each of one optimiser step per mini-batch"
    )
    mini_batch_groups: int | None = Field(
        default=None, ge=1, description="RL: groups per optimiser step, over all ranks; null: the whole batch"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="betas of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="norm above which gradients are scaled down")
    micro_batch_rows: int | None = Field(
        default=None,
        ge=1,
        description="sequences per forward and backward pass; null: as many tokens as keep a GiB for the "
        "backward pass, on a GPU 8 GiB (--check prints how many)",
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="RL: tokens per forward and backward pass instead of micro_batch_rows, the prompt of "
        "neighbours counted once; a longer row runs alone; null: by rows",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="recompute each layer in the backward pass: less memory, a third more time",
    )
    gradient_parts_every: int | None = Field(
        default=None,
        ge=1,
        description="RL: steps between measurements of what quality and what diversity ask of each layer (norms and "
        "cosine of their gradients, gradient/... in metrics.jsonl); each costs about one more pass; null: never",
    )
    num_workers: int = Field(default=1, ge=1, description="data-parallel ranks")
    cpus_per_worker: float = Field(default=1.0, ge=0, description="CPUs of one rank")
    use_gpu: bool = Field(default=False, description="whether a rank uses a GPU")
    gpus_per_worker: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="with use_gpu: below 1 the rest of a rank's GPU is for an engine, which must leave it the memory "
        "(rollout.gpu_memory_utilization, rollout.sleep_between_steps)",
    )
    node_labels: NodeLabels = Field(default_factory=dict)
    sharding: Literal["none", "base"] = Field(
        default="none",
        description="base: every rank keeps its part of the frozen base's layers (FSDP2) and gathers one at a time; "
        "adapters, embedding and head stay whole on each; none: the whole base on every rank",
    )
    cpu_offload: bool = Field(
        default=False,
        description="with sharding=base on GPUs: the parts wait in host memory and are copied for every pass",
    )
    num_threads: int | None = Field(
        default=None,
        ge=1,
        description="torch threads per rank, on which the last bits of sums depend; null: of a base of 100 MiB or "
        "more all cores that CPU engines leave, else 2. 1 where a small base shares the cores with engines: threads "
        "of one operator wait for each other",
    )
    checkpoint_every: int = Field(default=20, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints that are kept")
    keep_best: int = Field(
        default=0, ge=0, description="RL: besides the newest checkpoints, the best so many by best_metric"
    )
    best_metric: str | None = Field(
        default=None,
        description="RL: a key of metrics.jsonl, e.g. reward_mean; null: evaluation.best_metric",
    )
    best_mode: Literal["max", "min"] = Field(default="max", description="RL: of learner.best_metric")
    checkpoint_storage: str | None = Field(
        default=None,
        description="RL: second place of checkpoints, URL/RUN/: file:///..., s3://BUCKET/..., or any that fsspec "
        "knows; a run that finds newer ones there than on its disk resumes from them",
    )
    max_checkpoint_failures: int = Field(
        default=3,
        ge=1,
        description="RL: so many checkpoints in a row that could not be kept end the run; the last one must be kept",
    )
    max_failures: int = Field(
        default=3, ge=0, description="restarts of the worker group before the run fails"
    )

    @model_validator(mode="after")
    def _something_to_shard(self) -> LearnerSpec:
        if self.sharding == "base" and self.num_workers < 2:
            raise ValueError(
                f"sharding=base with num_workers={self.num_workers}: one rank cannot share the base; "
                "set num_workers to 2 or more, or sharding=none"
            )
        if self.cpu_offload and not (self.sharding == "base" and self.use_gpu):
            raise ValueError(
                f"cpu_offload=true with sharding={self.sharding} and use_gpu={str(self.use_gpu).lower()}: only the "
                "parts of a sharded base on GPUs can wait in host memory; set sharding=base and use_gpu=true, or "
                "cpu_offload=false"
            )
        return self

    @model_validator(mode="after")
    def _betas_in_range(self) -> LearnerSpec:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must both be in [0, 1)")
        if self.mini_batch_groups is not None and self.mini_batch_groups % self.num_workers:
            raise ValueError(
                f"mini_batch_groups={self.mini_batch_groups} must be a multiple of num_workers={self.num_workers}: "
                "every rank takes the same number of groups"
            )
        if self.num_workers > 1 and self.gpus_per_worker <= 0.5:
            raise ValueError(
                f"gpus_per_worker={self.gpus_per_worker:g} with num_workers={self.num_workers}: two ranks would "
                "share a GPU, which NCCL refuses; set gpus_per_worker above 0.5, or num_workers=1"
            )
        if self.checkpoint_storage is not None:
            _check_url(self.checkpoint_storage)
        return self


def _check_url(url: str) -> None:
    scheme, found, rest = url.partition("://")
    if not found or not scheme or not rest:
        raise ValueError(
            f"checkpoint_storage={url!r} is not a URL; write e.g. file:///shared/checkpoints or s3://bucket/path"
        )
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "checkpoint_storage holds a user or a password, which config.json would show; "
            "give credentials by the environment of the storage's own client"
        )
