"""Sampling: how many completions of how many prompts, on which engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel
from polyray.config.gpu_share import check_room, engines_on_one_gpu, is_share
from polyray.config.node_labels import NodeLabels
from polyray.config.simulation import SimulationSpec


class RolloutSpec(StrictModel):
    """Rollout workers (one engine each) and what they sample per step."""

    engine: Literal["vllm", "vllm_async", "simulated"] = Field(
        default="vllm",
        description="vllm_async: vLLM in processes of its own, as tensor parallelism needs it; simulated: no "
        "model, a deterministic random policy; for tests of scale and faults",
    )
    simulation: SimulationSpec = Field(
        default=SimulationSpec(), description="how long engine=simulated takes"
    )
    num_workers: int = Field(
        default=1, ge=1, description="rollout workers that the run needs, with one engine each"
    )
    max_workers: int | None = Field(
        default=None,
        ge=1,
        description="most rollout workers: those above num_workers join while there is room on the cluster, and "
        "may be taken away again; null: num_workers",
    )
    cpus_per_worker: float = Field(default=1.0, ge=0, description="CPUs of one worker")
    gpus_per_worker: float = Field(
        default=0.0,
        ge=0,
        description="0: the engine uses no GPU, which vLLM's CUDA build cannot; below 1: others are on its GPU",
    )
    node_labels: NodeLabels = Field(default_factory=dict)
    tensor_parallel_size: int = Field(
        default=1,
        ge=1,
        description="devices one engine is spread over; more than 1 implies engine=vllm_async",
    )
    threads_per_worker: int | None = Field(
        default=None,
        ge=1,
        description="threads of a CPU engine; null: with max_staleness=0 and a base of 100 MiB or more the cores of "
        "the machine that starts the run, divided among num_workers; else 1",
    )
    prompts_per_step: int = Field(default=16, ge=1, description="groups of a learner step")
    group_size: int = Field(default=16, ge=1, description="completions per prompt")
    max_prompt_tokens: int = Field(default=16, ge=1, description="longest prompt")
    max_completion_tokens: int = Field(default=10, ge=1, description="longest completion")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature")
    max_staleness: int = Field(default=0, ge=0, le=8, description="0: synchronous and exactly reproducible")
    dispatch: Literal["groups", "tokens"] = Field(
        default="groups",
        description="unit of a worker's load: groups, or tokens as the prompt's earlier groups had, for tasks "
        "with very different lengths between prompts",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        description="share of engines that trials of a sweep use together: 2 has twice the samples of 1 while "
        "both have work",
    )
    max_sequences: int = Field(default=256, ge=1, description="sequences one engine decodes together")
    max_batched_tokens: int = Field(default=4096, ge=64, description="tokens of one engine step")
    kv_cache_mib: int = Field(default=128, ge=1, description="KV cache of a CPU engine")
    gpu_memory_utilization: float = Field(
        default=0.85,
        gt=0,
        le=1,
        description="share of the whole GPU that one engine takes; engines that may be on one GPU take 1 together"
        " at most",
    )
    sleep_between_steps: bool = Field(
        default=False,
        description="engines give back their GPU's memory while the learner works, and take it again for the next "
        "version: for one GPU that both share (with gpus_per_worker and learner.gpus_per_worker of 0.5 each); "
        "needs max_staleness=0",
    )
    start_timeout_s: float = Field(
        default=300.0, gt=0, description="a worker that starts more slowly is replaced"
    )
    group_timeout_s: float = Field(default=300.0, gt=0, description="a worker that takes longer is replaced")
    max_worker_replacements: int = Field(default=8, ge=0, description="lost workers after which the run ends")

    @model_validator(mode="after")
    def _most_workers(self) -> RolloutSpec:
        if self.max_workers is not None and self.max_workers < self.num_workers:
            raise ValueError(
                f"max_workers={self.max_workers} is below num_workers={self.num_workers}; raise it, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _sleeps_in_turn(self) -> RolloutSpec:
        if self.sleep_between_steps and self.max_staleness > 0:
            raise ValueError(
                f"sleep_between_steps with max_staleness={self.max_staleness}: engines that sample while the learner "
                "works cannot sleep; set max_staleness=0"
            )
        return self

    @model_validator(mode="after")
    def _devices_of_an_engine(self) -> RolloutSpec:
        size = self.tensor_parallel_size
        if size > 1 and self.engine == "simulated":
            raise ValueError(f"tensor_parallel_size={size}: a simulated engine has no devices; set it to 1")
        if size > 1 and self.gpus_per_worker not in (0, size):
            raise ValueError(
                f"tensor_parallel_size={size} needs as many devices per engine, but "
                f"gpus_per_worker={self.gpus_per_worker:g}; set gpus_per_worker={size}"
            )
        return self

    @model_validator(mode="after")
    def _room_on_a_gpu(self) -> RolloutSpec:
        if self.engine != "simulated":
            field = "num_workers" if self.most_workers == self.num_workers else "max_workers"
            utilization = ("gpu_memory_utilization", self.gpu_memory_utilization)
            check_room(("gpus_per_worker", self.gpus_per_worker), (field, self.most_workers), utilization)
        return self

    @property
    def most_workers(self) -> int:
        """Largest number of engines."""
        return self.max_workers or self.num_workers

    @property
    def shares_gpus(self) -> bool:
        """Whether another engine, or the learner, may be on an engine's GPU."""
        return is_share(self.gpus_per_worker)

    @property
    def ready_within_s(self) -> float:
        """Seconds that an engine's start may take: those on one GPU wait for one another."""
        return self.start_timeout_s * engines_on_one_gpu(self.gpus_per_worker, self.most_workers)

    @property
    def engine_kind(self) -> Literal["vllm", "vllm_async", "simulated"]:
        """The engine that is built."""
        return "vllm_async" if self.tensor_parallel_size > 1 else self.engine

    @property
    def max_model_len(self) -> int:
        """Longest sequence an engine holds, in tokens."""
        return self.max_prompt_tokens + self.max_completion_tokens
