"""Ray, the rollout pool and the reward service, as several commands start and share them.

`open_ray` for the length of a job; `open_fleet` for the length of one or more runs on one base model: the
quickstart opens one fleet for all its arms, because engines take longer to start than arms to train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from polyray.capacity.threads import with_threads
from polyray.cluster.session import check_placement, ray_session
from polyray.cluster.storage_check import check_storage
from polyray.config.model import ModelSpec
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import EvaluateConfig, RaySpec
from polyray.errors import ConfigError
from polyray.evaluation.sampling import Sample
from polyray.launch.plan import FleetPlan
from polyray.orchestrator.reward_client import build_remote
from polyray.orchestrator.rollout_pool import RolloutPool, SharedPool
from polyray.rewards import RewardPlan
from polyray.rollout.engine import EngineSettings
from polyray.runs.logging import setup_logging
from polyray.runs.progress import ProgressDisplay
from polyray.serving.auth import token_from_environment
from polyray.serving.reward.run import RewardServiceAddress, start_reward_service, stop_reward_service
from polyray.types import Group, GroupRequest
from polyray.weight_sync.proof import SyncVerifier

PLACEMENT_KEYS = "rollout.num_workers, cpus_per_worker or gpus_per_worker"
"""Keys that an error of placement names."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Engines and a reward service, ready or on their way."""

    pool: RolloutPool
    reward: RewardServiceAddress
    remote: RewardPlan | None = None
    """Set where the reward is a service elsewhere, and no replica of ours runs."""


def fleet_owner(name: str, run_dir: Path) -> str:
    """The name of a run's fleet on its Ray cluster: two people may run one configuration there at the same time.

    A resumed run has the same name, and so replaces what a killed driver left behind. All machines of a cluster share
    the run directory, so two runs cannot have one path.
    """
    return f"{name}-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:8]}"


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
def open_fleet(plan: FleetPlan, owner: str) -> Iterator[Fleet]:
    """The pool and the reward service of a plan, named after `owner`; both end with the block.

    Engines start in the background. If the base is still being made, the reward service and the processes of the
    engines start meanwhile. Raises ResourceError before anything starts if the plan has no place on this Ray.
    """
    check_placement(plan.parts, PLACEMENT_KEYS)
    pool = RolloutPool(owner, _with_threads(plan))
    try:
        if isinstance(plan.engine, EngineSettings):
            pool.build(plan.engine)
        with open_reward(owner, plan.reward) as address:
            if not isinstance(plan.engine, EngineSettings):
                pool.build(plan.engine())
            yield Fleet(pool, address, plan.reward if plan.reward.is_remote else None)
    finally:
        pool.shutdown()


@contextmanager
def open_shared_fleet(plan: FleetPlan, owner: str, lora_rank: int, runs: int) -> Iterator[Fleet]:
    """As `open_fleet`, for runs at the same time that differ from `plan` in nothing a fleet cannot have twice.

    Each uses `fleet.pool.for_run(name)`. `lora_rank`: the largest of all runs that will come.
    """
    if plan.rollout.max_workers is not None:
        raise ConfigError(
            f"rollout.max_workers={plan.rollout.max_workers}: engines that several runs share are as many as "
            "rollout.num_workers; set that, and leave max_workers out"
        )
    engine = plan.engine
    assert isinstance(engine, EngineSettings)
    rank = None if engine.lora_rank is None else lora_rank
    pool = SharedPool(owner, plan.rollout)
    try:
        pool.build(replace(engine, lora_rank=rank, runs=runs))
        with open_reward(owner, plan.reward) as address:
            yield Fleet(pool, address, plan.reward if plan.reward.is_remote else None)
    finally:
        pool.shutdown()


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
def open_sampler(config: EvaluateConfig, plan: FleetPlan) -> Iterator[Sample]:
    """A rollout pool of its own for one evaluation."""
    check_placement(plan.parts, PLACEMENT_KEYS)
    assert isinstance(plan.engine, EngineSettings)
    pool = RolloutPool(config.name, _with_threads(plan))
    pool.build(plan.engine)
    try:
        yield pool_sampler(config, pool)
    finally:
        pool.shutdown()


def _with_threads(plan: FleetPlan) -> RolloutSpec:
    """Engines with their number of threads decided; undecided, which means 1, while the base is being made."""
    engine = plan.engine
    return (
        with_threads(plan.rollout, ModelSpec(path=engine.model_dir))
        if isinstance(engine, EngineSettings)
        else plan.rollout
    )


def pool_sampler(config: EvaluateConfig, pool: RolloutPool) -> Sample:
    """Samples each model on `pool`, after its delivery to every engine was proven.

    In 16 bits engines prove the base first: it is the reference for noise and for adapters that never arrive.
    """
    from polyray.weight_sync.probe import adapter_on_disk, probe_sequences

    model_dir, dtype = Path(pool.settings.model_dir), pool.settings.dtype
    delivery, names = config.delivery, list(config.adapters)
    arguments = config.task, config.rollout, delivery.num_probes, config.seed, model_dir, dtype
    sequences = probe_sequences(*arguments)
    verifier = SyncVerifier(dtype)
    served: list[np.ndarray] = []

    def deliver(adapter_dir: Path | None, version: int) -> None:
        before = served[-1] if served else None
        payload = adapter_on_disk(adapter_dir, model_dir, dtype, sequences, version, before)
        for ack in pool.deliver(payload, delivery.timeout_s):
            verifier.check(ack, payload)
        served.append(payload.probe.logprobs)

    def sample(name: str, adapter_dir: str | None, requests: Sequence[GroupRequest]) -> Iterator[Group]:
        where = Path(adapter_dir) if adapter_dir is not None else None
        pool.repair()
        if not served and where is not None and dtype != "float32":
            deliver(None, -1)
        deliver(where, names.index(name))
        yield from pool.sample(requests)

    return sample
