"""What several jobs start and share: Ray, the rollout pool, the reward service (not a job itself).

`open_ray` for the length of a job; `open_fleet` for the length of one or more runs on one base model: the
quickstart opens one fleet for all its arms, because engines take longer to start than arms to train.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyray.capacity.bundles import engines, training_parts
from polyray.config.learner import LearnerSpec
from polyray.config.paths import relative_to
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, RaySpec, TrainConfig
from polyray.errors import ConfigError
from polyray.evaluation.sampling import Sample
from polyray.launch.plan import RunPlan, held_as, resolve_base, resolve_training
from polyray.models.adapter import AdapterShape
from polyray.models.adapter_files import read_adapter
from polyray.models.base_files import base_fingerprint, resolve_model_dir
from polyray.orchestrator.resources import check_placement, ray_session
from polyray.orchestrator.reward_client import build_remote
from polyray.orchestrator.rollout_actor import EngineSettings
from polyray.orchestrator.rollout_pool import RolloutPool
from polyray.orchestrator.shared_pool import SharedPool
from polyray.orchestrator.storage_check import check_storage
from polyray.rewards import RewardPlan, plan_reward
from polyray.rollout.vllm_build import check_build_for
from polyray.runs.logging import setup_logging
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory
from polyray.serving.auth import token_from_environment
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service
from polyray.types import Group, GroupRequest
from polyray.weight_sync.mode import choose_mode
from polyray.weight_sync.proof import check_delivery


@dataclass(frozen=True, slots=True)
class Fleet:
    """Engines and a reward service, ready or on their way."""

    pool: RolloutPool
    reward: RewardServiceAddress
    remote: RewardPlan | None = None
    """Set where the reward is a service elsewhere, and no replica of ours runs."""


@contextmanager
def open_ray(spec: RaySpec, display: ProgressDisplay, run_dir: Path | None = None) -> Iterator[None]:
    """Ray for the length of a job; its dashboard's address is shown.

    Raises ResourceError where not all machines of a cluster share `run_dir`.
    """
    display.update(phase="starting Ray")
    with ray_session(spec, setup_logging()) as dashboard:
        display.note(f"Ray dashboard: {dashboard}")
        if run_dir is not None:
            check_storage(run_dir)
        yield


@contextmanager
def open_fleet(
    config: TrainConfig,
    owner: str,
    plan: RunPlan[TrainConfig] | Callable[[], RunPlan[TrainConfig]] | None = None,
) -> Iterator[Fleet]:
    """The pool and the reward service that `config` asks for, named after `owner`; both end with the block.

    Engines start in the background. `plan` may be a function that returns once the base model exists, where it is
    still being made; what does not need it starts meanwhile. Raises ConfigError and ResourceError before anything
    starts.
    """
    check_engines(config.rollout)
    plan = resolve_training(config) if plan is None else plan
    reward = _planned_reward(config, plan)
    check_placement(training_parts(config), "rollout.num_workers, cpus_per_worker or gpus_per_worker")
    pool = RolloutPool(owner, config.rollout)
    try:
        if isinstance(plan, RunPlan):
            pool.build(plan.engine_settings())
        with open_reward(owner, reward) as address:
            if not isinstance(plan, RunPlan):
                pool.build(plan().engine_settings())
            yield Fleet(pool, address, reward if reward.is_remote else None)
    finally:
        pool.shutdown()


@contextmanager
def open_shared_fleet(plan: RunPlan[TrainConfig], owner: str, lora_rank: int, runs: int) -> Iterator[Fleet]:
    """As `open_fleet`, for runs at the same time that differ from `plan` in nothing a fleet cannot have twice.

    Each uses `fleet.pool.for_run(name)`. `lora_rank`: the largest of all runs that will come.
    """
    rollout = plan.config.rollout
    if rollout.max_workers is not None:
        raise ConfigError(
            f"rollout.max_workers={rollout.max_workers}: engines that several runs share are as many as "
            "rollout.num_workers; set that, and leave max_workers out"
        )
    check_engines(rollout)
    reward = _planned_reward(plan.config, plan)
    pool = SharedPool(owner, rollout)
    try:
        pool.build(plan.engine_settings(lora_rank, runs))
        with open_reward(owner, reward) as address:
            yield Fleet(pool, address, reward if reward.is_remote else None)
    finally:
        pool.shutdown()


def _planned_reward(config: TrainConfig, plan: RunPlan[TrainConfig] | Callable[[], Any]) -> RewardPlan:
    if isinstance(plan, RunPlan) and plan.engine is not None:
        return plan.engine.reward
    with relative_to(config.base_dir):
        return plan_reward(config.reward, config.task, config.diversity, config.second_opinion)


@contextmanager
def open_reward(owner: str, plan: RewardPlan) -> Iterator[RewardServiceAddress]:
    """The run's own service, or a look at the one elsewhere: RewardError where that is not there."""
    if plan.is_remote and isinstance(plan.reward, HttpRewardSpec):
        with closing(build_remote(plan)) as remote:
            if plan.reward.protocol == "polyray":
                remote.client.info()
        yield RewardServiceAddress(f"{owner}-remote", plan.reward.url)
        return
    # Two runs on one machine have the same default, and nothing in a run needs this one.
    any_port = "port" not in plan.reward.service.model_fields_set
    address = start_reward_service(owner, plan, token_from_environment(), any_port=any_port)
    try:
        yield address
    finally:
        stop_reward_service(owner)


@contextmanager
def open_sampler(config: EvaluateConfig) -> Iterator[Sample]:
    """A rollout pool of its own for one evaluation. Every adapter is looked at before an engine starts."""
    model_dir = resolve_model_dir(config.model)
    ranks = [config.model.lora.rank]
    for arm in config.adapters.values():
        if arm.adapter is not None:
            _, adapter = read_adapter(Path(arm.adapter), base_fingerprint(model_dir))
            ranks.append(AdapterShape.from_peft(adapter).rank)
    rollout = config.rollout
    check_engines(rollout)
    check_placement([engines(rollout)], "rollout.num_workers, cpus_per_worker or gpus_per_worker")
    pool = RolloutPool(config.name, rollout)
    pool.build(_evaluation_settings(config, max(ranks)))
    try:
        yield pool_sampler(config, pool)
    finally:
        pool.shutdown()


def pool_sampler(config: EvaluateConfig, pool: RolloutPool) -> Sample:
    """Samples each model on `pool`, after its delivery to every engine was proven."""
    from polyray.weight_sync.probe import adapter_on_disk, probe_sequences

    model_dir, dtype = Path(pool.settings.model_dir), pool.settings.dtype
    delivery, names = config.delivery, list(config.adapters)
    arguments = config.task, config.rollout, delivery.num_probes, config.seed, model_dir, dtype
    sequences = probe_sequences(*arguments)
    served: list[np.ndarray] = []

    def sample(name: str, adapter_dir: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        where = Path(adapter_dir) if adapter_dir is not None else None
        before = served[-1] if served else None
        payload = adapter_on_disk(where, model_dir, dtype, sequences, names.index(name), before)
        pool.repair()
        for ack in pool.deliver(payload, delivery.timeout_s):
            check_delivery(ack, payload.policy, payload.probe, delivery.tolerance_for(dtype))
        served.append(payload.probe.logprobs)
        yield from pool.sample(requests)

    return sample


def _evaluation_settings(config: EvaluateConfig, lora_rank: int) -> EngineSettings:
    """Settings of the engines of an evaluation; `lora_rank` is the largest of its adapters."""
    model_dir, _ = resolve_base(config.model)
    dtype = held_as(config.model, model_dir, config.rollout.gpus_per_worker > 0)
    sync = choose_mode(config.delivery, config.rollout, config.model.lora, model_dir, dtype)
    rank = lora_rank if sync.mode == "adapter" else None
    return EngineSettings(str(model_dir.resolve()), dtype, config.rollout, rank)


def check_engines(rollout: RolloutSpec) -> None:
    """ConfigError where it is known before a worker starts that its engine cannot be built."""
    if rollout.engine_kind != "simulated":
        check_build_for(rollout.gpus_per_worker, rollout.node_labels)


def fit_trainer(
    loop: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    learner: LearnerSpec,
    directory: RunDirectory,
    outcome: dict[str, BaseException],
    callbacks: Sequence[Any] = (),
) -> None:
    """Runs Ray Train to its end, in a thread of the driver; what ended it early goes into `outcome`. `callbacks`: of
    ray.train.UserCallback. A permanent error (polyray/errors.py) of a worker ends it at once.

    Its own storage lies in .train/ under a new name per start: what a resume reads is `checkpoints/`.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from polyray.orchestrator.learner_failures import EndAtPermanentError, training_error

    resources = {
        "CPU": learner.cpus_per_worker,
        **({"GPU": learner.gpus_per_worker} if learner.use_gpu else {}),
    }
    trainer = TorchTrainer(
        loop,
        train_loop_config=arguments,
        scaling_config=ray.train.ScalingConfig(
            num_workers=learner.num_workers,
            use_gpu=learner.use_gpu,
            resources_per_worker=resources,
            label_selector=learner.node_labels or None,
        ),
        # Gradients lie on the device, counts and metrics on the CPU.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if learner.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=f"{directory.paths.root.name}-{uuid.uuid4().hex[:8]}",  # as the dashboard lists it
            storage_path=str(directory.paths.train_storage),
            failure_config=ray.train.FailureConfig(max_failures=learner.max_failures),
            callbacks=[*callbacks, EndAtPermanentError()],
        ),
    )
    try:
        trainer.fit()
    except BaseException as error:
        outcome["error"] = training_error(error, learner.max_failures)
