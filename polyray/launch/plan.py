"""A run resolved once, before anything starts: base, warm start, types, weight sync, reward, engines, resources.

    TrainConfig     --plan_training----> RunPlan --> fleet, coordinator, learner ranks
    SftConfig       --plan_sft---------> RunPlan --> learner ranks
    EvaluateConfig  --plan_evaluation--> FleetPlan --> rollout pool

`check_training`, `check_sft` and `check_evaluation` read the same inputs for --check: they fetch and write nothing
and need no key. All of them raise ConfigError, DataError and ResourceError for everything that is known to be wrong
before a start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from polyray.capacity.bundles import Part, engines, training_parts
from polyray.capacity.micro_batch import with_micro_batch
from polyray.capacity.threads import with_learner_threads
from polyray.config.algorithm import AlgorithmSpec, PolychromicSpec
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, SftConfig, TrainConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError, MissingFiles
from polyray.models.adapter import AdapterShape
from polyray.models.adapter_files import read_adapter
from polyray.models.base import Base, check_adapter, find_base, held_as, merge_warm_start, resolve_base
from polyray.rewards import RewardPlan, plan_reward
from polyray.rollout.engine import EngineSettings
from polyray.rollout.vllm_build import check_rollout_build
from polyray.runs.run_directory import RunPaths
from polyray.runs.trackers.running import check_trackers
from polyray.tasks import build_task
from polyray.tasks.base import Task
from polyray.tasks.prompts import check_prompts, check_task_prompts, validation_prompts
from polyray.weight_sync.mode import SyncChoice, choose_sync

ConfigT = TypeVar("ConfigT", TrainConfig, SftConfig)

FIRST_PROMPTS = 20_000
"""Training prompts that are measured however short the run is; about 100 microseconds each."""
MARGIN = 2
"""Factor on the groups of a run: some are dropped or sampled again."""
GENERATED_PROMPTS = 64
"""Training prompts that are measured of a task that generates all of them alike."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Rollout workers and reward service of one or more runs."""

    rollout: RolloutSpec
    parts: tuple[Part, ...]
    """Everything that the run places on machines."""
    reward: RewardPlan
    engine: EngineSettings | Callable[[], EngineSettings]
    """A function if the base is still being made: it returns once the base exists."""


@dataclass(frozen=True, slots=True)
class RunPlan(Generic[ConfigT]):
    """A run of a configuration, with everything that follows from its files."""

    config: ConfigT
    base: Base
    """With `merge_then_fresh` the base that the warm start was merged into."""
    learner_dtype: str
    sync: SyncChoice | None = None
    fleet: FleetPlan | None = None
    """None, as `sync`, for a run without rollout workers."""

    def worker_arguments(self) -> tuple[ConfigT, dict[str, Any]]:
        """Configuration and arguments of a Ray Train worker, with every choice made."""
        warm_start = None if self.base.warm_start is None else str(self.base.warm_start)
        directory = self.base.directory.resolve()
        model = self.config.model.model_copy(update={"warm_start": warm_start, "warm_start_mode": "continue"})
        config = with_micro_batch(self.config, directory).model_copy(update={"model": model})
        config = with_learner_threads(config, ModelSpec(path=str(directory)))
        return config, {"model_dir": str(directory), "dtype": self.learner_dtype}


def plan_training(config: TrainConfig, *, measure_prompts: bool = True) -> RunPlan[TrainConfig]:
    """Checks the inputs of a run and resolves it.

    Without `measure_prompts`, for prompts that another process has measured, it needs neither tokenizer nor torch.
    """
    parts, base, reward = _read_training(config, measure_prompts=measure_prompts)
    assert base is not None
    base = merge_warm_start(base, config.model)
    dtype = held_as(config.model, base, config.learner.use_gpu)
    base.check_same_start(RunPaths(config.run_dir).checkpoints, config.name)
    sync = choose_sync(config.model, config.delivery, config.rollout, base)
    engine = _engine(base, sync, config.rollout, config.model.lora.rank)
    fleet = FleetPlan(config.rollout, parts, reward, engine)
    return RunPlan(config, base, dtype, sync, fleet)


def plan_fleet(config: TrainConfig, await_model: Callable[[], object] | None = None) -> FleetPlan:
    """Resolves the fleet of runs whose warm start is still being trained.

    With `await_model` the base is still being made, too: the function returns once it exists.
    """
    check_rollout_build(config.rollout)
    rewards = config.reward, config.task, config.diversity, config.second_opinion
    reward = plan_reward(*rewards, directory=config.base_dir)

    def engine() -> EngineSettings:
        if await_model is not None:
            await_model()
        continues = config.model.warm_start_mode == "continue"
        model = config.model.model_copy(update={"warm_start": None}) if continues else config.model
        base = resolve_base(model)
        sync = choose_sync(config.model, config.delivery, config.rollout, base)
        return _engine(base, sync, config.rollout, config.model.lora.rank)

    parts = tuple(training_parts(config))
    return FleetPlan(config.rollout, parts, reward, engine if await_model is not None else engine())


def plan_sft(config: SftConfig) -> RunPlan[SftConfig]:
    """Checks the inputs of a supervised run and resolves it."""
    base = _read_sft(config)
    assert base is not None
    base = merge_warm_start(base, config.model)
    base.check_same_start(RunPaths(config.run_dir).checkpoints, config.name)
    return RunPlan(config, base, held_as(config.model, base, config.learner.use_gpu))


def plan_evaluation(config: EvaluateConfig) -> FleetPlan:
    """Checks the inputs of an evaluation and resolves its engines."""
    base, reward, rank = _read_evaluation(config)
    assert base is not None
    base = merge_warm_start(base, config.model)
    sync = choose_sync(config.model, config.delivery, config.rollout, base)
    engine = _engine(base, sync, config.rollout, rank)
    return FleetPlan(config.rollout, (engines(config.rollout),), reward, engine)


def check_training(config: TrainConfig, *, made_before: bool = False) -> None:
    """Reads the inputs of a run. `made_before`: the job itself makes base and warm start first."""
    _read_training(config, only_look=True, made_before=made_before)


def check_sft(config: SftConfig, *, made_before: bool = False) -> None:
    """Reads the inputs of a supervised run. `made_before`: the job itself makes the base first."""
    _read_sft(config, only_look=True, made_before=made_before)


def check_evaluation(config: EvaluateConfig, *, made_before: bool = False) -> None:
    """Reads the inputs of an evaluation. `made_before`: the job itself makes base and adapters first."""
    _read_evaluation(config, only_look=True, made_before=made_before)


def _read_training(
    config: TrainConfig, *, only_look: bool = False, made_before: bool = False, measure_prompts: bool = True
) -> tuple[tuple[Part, ...], Base | None, RewardPlan]:
    """Parts, base (None if it is not on this machine) and reward; reads all prompts that a run may ask for."""
    parts = tuple(training_parts(config))
    check_rollout_build(config.rollout)
    _check_subsets(config.algorithm, config.rollout.group_size)
    if config.learner.checkpoint_storage is not None and not only_look:
        from polyray.learner.checkpoint_storage import open_storage

        open_storage(config.learner.checkpoint_storage)
    missing = MissingFiles()
    reward, task, fixed = None, None, []
    base = None if made_before else find_base(config.model, missing, only_look=only_look)
    check_trackers(config.tracking)
    with missing.noted():
        rewards = config.reward, config.task, config.diversity, config.second_opinion
        reward = plan_reward(*rewards, needs_keys=not only_look, directory=config.base_dir)
    with missing.noted():
        task = build_task(config.task)
        task.training_prompt(0, config.seed)
        if config.supervised is not None:
            task.demonstration(0, config.seed)
        if config.eval_plan is not None:
            fixed = validation_prompts(config.eval_plan, task, config.seed)
    missing.raise_if_any()
    assert reward is not None and task is not None
    if base is not None and measure_prompts:
        groups = config.learner.steps * config.rollout.prompts_per_step
        generated = isinstance(config.task, HiddenTrapGridSpec)
        limit = GENERATED_PROMPTS if generated else max(FIRST_PROMPTS, MARGIN * groups)
        room = config.rollout.max_prompt_tokens
        check_task_prompts(task, config.seed, limit, fixed, base.directory, room)
        _check_demonstrations(config, task, base)
    return parts, base, reward


def _check_subsets(algorithm: AlgorithmSpec, group_size: int) -> None:
    """Raises ConfigError where stale sets are too many to be enumerated."""
    if not isinstance(algorithm, PolychromicSpec) or algorithm.stale_weights == "token":
        return
    from polyray.algorithms.subset_credits import MAX_ENUMERATED_SUBSETS

    end = algorithm.anneal.set_size if algorithm.anneal is not None else None
    sizes = sorted((algorithm.set_size, end or algorithm.set_size))
    most = max(math.comb(group_size, k) for k in range(sizes[0], sizes[1] + 1))
    if most > MAX_ENUMERATED_SUBSETS:
        raise ConfigError(
            f"algorithm.stale_weights={algorithm.stale_weights} goes over every set, and with set_size="
            f"{algorithm.set_size} rollout.group_size={group_size} has {most:,} of them, more than "
            f"{MAX_ENUMERATED_SUBSETS:,}; lower one of the two, or set stale_weights=token"
        )


def _check_demonstrations(config: TrainConfig, task: Task, base: Base) -> None:
    from polyray.data.chat import encode_demonstration
    from polyray.learner.demonstrations import check_task_rows
    from polyray.models.tokenizer import usable_tokenizer

    spec = config.supervised
    if spec is None:
        return
    tokenizer = usable_tokenizer(base.directory)

    def row_of(index: int) -> TokenRow:
        return encode_demonstration(tokenizer, *task.demonstration(index, config.seed), spec.max_tokens)

    num_rows = config.learner.steps * spec.demonstrations_per_step
    check_task_rows(row_of, num_rows, isinstance(config.task, HiddenTrapGridSpec))


def _read_sft(config: SftConfig, *, only_look: bool = False, made_before: bool = False) -> Base | None:
    """Base (None if it is not on this machine); reads all rows."""
    missing = MissingFiles()
    base = None if made_before else find_base(config.model, missing, only_look=only_look)
    with missing.noted():
        if isinstance(config.data, JsonlDataSpec):
            from polyray.data.records import read_demonstrations

            read_demonstrations(config.data)
        else:
            build_task(config.task).demonstration(0, config.seed)
    missing.raise_if_any()
    if base is not None:
        from polyray.learner.demonstrations import check_rows, load_demonstrations
        from polyray.models.tokenizer import usable_tokenizer

        check_rows(config, load_demonstrations(config, usable_tokenizer(base.directory)))
    return base


def _read_evaluation(
    config: EvaluateConfig, *, only_look: bool = False, made_before: bool = False
) -> tuple[Base | None, RewardPlan, int]:
    """Base (None if it is not on this machine), reward and the largest rank; reads the prompts of every arm."""
    from polyray.evaluation.arms import resolve_arms

    check_rollout_build(config.rollout)
    missing = MissingFiles()
    reward, arms = None, []
    base = None if made_before else find_base(config.model, missing, only_look=only_look)
    ranks = [config.model.lora.rank]
    for arm in config.adapters.values():
        if arm.adapter is not None and not made_before:
            with missing.noted():
                ranks.append(_rank(Path(arm.adapter), base))
    with missing.noted():
        reward = plan_reward(config.reward, config.task, needs_keys=not only_look)
    with missing.noted():
        task = build_task(config.task)
        prompts = task.held_out_prompts(config.evaluation.num_prompts)
        arms = resolve_arms(config.adapters, prompts, task, config.seed, config.evaluation)
    missing.raise_if_any()
    assert reward is not None
    if base is not None:
        from polyray.models.tokenizer import usable_tokenizer

        tokenizer = usable_tokenizer(base.directory)
        for asked_P in {arm.template: arm.asked_P for arm in arms}.values():
            check_prompts(asked_P, task, tokenizer, config.rollout.max_prompt_tokens)
    return base, reward, max(ranks)


def _engine(base: Base, sync: SyncChoice, rollout: RolloutSpec, rank: int) -> EngineSettings:
    """Settings of engines that serve adapters of at most this rank."""
    return EngineSettings(str(base.directory.resolve()), sync.dtype, rollout, sync.lora_rank(rank))


def _rank(directory: Path, base: Base | None) -> int:
    """Rank of an adapter; 0 if its base is not on this machine."""
    if base is None:
        check_adapter(directory, base)
        return 0
    return AdapterShape.from_peft(read_adapter(directory, base.sha256)[1]).rank
