"""A run resolved once, before anything starts: base, warm start, types, weight sync, reward.

    TrainConfig or SftConfig --plan_training, plan_sft--> RunPlan --> fleet, coordinator, learner ranks

`--check` looks at the same files without a plan (inputs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from polyray.config.model import ModelSpec
from polyray.config.paths import relative_to
from polyray.config.run import SftConfig, TrainConfig
from polyray.launch.inputs import check_supervised, check_training
from polyray.models.adapter_files import check_same_start, start_manifest
from polyray.models.base_files import base_fingerprint, resolve_dtype, resolve_model_dir
from polyray.orchestrator.rollout_actor import EngineSettings
from polyray.rewards import RewardPlan, plan_reward
from polyray.runs.run_directory import RunPaths
from polyray.weight_sync.mode import SyncChoice, choose_mode

ConfigT = TypeVar("ConfigT", TrainConfig, SftConfig)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Settings that rollout workers are built from."""

    dtype: str
    sync: SyncChoice
    reward: RewardPlan


@dataclass(frozen=True, slots=True)
class RunPlan(Generic[ConfigT]):
    """A run of a configuration, with everything that follows from its files."""

    config: ConfigT
    model_dir: Path
    """The base; with `merge_then_fresh` the one that the warm start is merged into."""
    base_sha256: str
    warm_start: Path | None
    """Adapter that training continues."""
    learner_dtype: str
    engine: EnginePlan | None = None
    """None for a run without rollout workers."""

    def worker_arguments(self, run_dir: Path) -> dict[str, Any]:
        """Arguments of a Ray Train worker, as plain values."""
        warm_start = None if self.warm_start is None else str(self.warm_start)
        model = self.config.model.model_copy(update={"warm_start": warm_start, "warm_start_mode": "continue"})
        return {
            "config": self.config.model_copy(update={"model": model}).model_dump(mode="json"),
            "model_dir": str(self.model_dir.resolve()),
            "run_dir": str(run_dir),
            "dtype": self.learner_dtype,
        }

    def engine_settings(self, lora_rank: int | None = None, runs: int = 1) -> EngineSettings:
        """Settings of the engines; `lora_rank` if adapters above `model.lora.rank` come."""
        assert self.engine is not None and isinstance(self.config, TrainConfig)
        rank = (lora_rank or self.config.model.lora.rank) if self.engine.sync.mode == "adapter" else None
        directory = str(self.model_dir.resolve())
        return EngineSettings(directory, self.engine.dtype, self.config.rollout, rank, runs)


def plan_training(config: TrainConfig) -> RunPlan[TrainConfig]:
    """Checks the files of a run and resolves it.

    Raises ConfigError, DataError and ResourceError for everything that is known to be wrong before a start.
    """
    check_training(config)
    plan = resolve_training(config)
    _check_start(plan)
    return plan


def resolve_training(config: TrainConfig) -> RunPlan[TrainConfig]:
    """Resolves a run whose files are known to be there, or whose warm start is still being trained.

    Raises ConfigError for a base that is missing or cannot be held as asked.
    """
    model_dir, warm_start = resolve_base(config.model)
    engine_dtype = held_as(config.model, model_dir, config.rollout.gpus_per_worker > 0)
    with relative_to(config.base_dir):
        reward = plan_reward(config.reward, config.task, config.diversity, config.second_opinion)
    sync = choose_mode(config.delivery, config.rollout, config.model.lora, model_dir, engine_dtype)
    return RunPlan(
        config,
        model_dir,
        base_fingerprint(model_dir),
        warm_start,
        held_as(config.model, model_dir, config.learner.use_gpu),
        EnginePlan(engine_dtype, sync, reward),
    )


def plan_sft(config: SftConfig) -> RunPlan[SftConfig]:
    """Checks the files of a supervised run and resolves it. Raises as `plan_training`."""
    check_supervised(config)
    model_dir, warm_start = resolve_base(config.model)
    dtype = held_as(config.model, model_dir, config.learner.use_gpu)
    plan = RunPlan(config, model_dir, base_fingerprint(model_dir), warm_start, dtype)
    _check_start(plan)
    return plan


def resolve_base(model: ModelSpec) -> tuple[Path, Path | None]:
    """(base directory, adapter to continue from): with `merge_then_fresh` the adapter becomes part of a new
    base."""
    model_dir = resolve_model_dir(model)
    warm_start = Path(model.warm_start) if model.warm_start else None
    if warm_start is None or model.warm_start_mode == "continue":
        return model_dir, warm_start
    from polyray.models.lora import merge_then_fresh

    merged = merge_then_fresh(
        model_dir,
        warm_start,
        base_sha256=base_fingerprint(model_dir),
        dtype="float32",
        target_dir=Path(model.cache_dir) / "merged",
    )
    return merged, None


def held_as(model: ModelSpec, model_dir: Path, use_gpu: bool) -> str:
    """The base's dtype. ConfigError, before a worker starts, where it cannot be held so."""
    if model.quantization != "none":
        from polyray.models.loading import check_can_quantise

        check_can_quantise(model_dir)
    return resolve_dtype(model, use_gpu)


def _check_start(plan: RunPlan[Any]) -> None:
    """Raises ConfigError if the newest checkpoint of the run began on another base or another warm start."""
    warm_start = None if plan.warm_start is None else str(plan.warm_start)
    manifest = start_manifest(plan.config.name, plan.base_sha256, warm_start)
    checkpoints = RunPaths(plan.config.run_dir).checkpoints
    for checkpoint in sorted(checkpoints.glob("step-*/adapter/polyray.json"))[-1:]:
        check_same_start(checkpoint.parent, manifest)
