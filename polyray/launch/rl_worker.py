"""The RL learner inside Ray Train: connects polyray/learner/loop.py with the coordinator actor.

Ray Train gives no calls into its workers, so they pull. The coordinator is found by name, because Train re-uses the
loop's arguments after a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train

from polyray.cluster.session import NAMESPACE
from polyray.config.run import TrainConfig
from polyray.errors import root_cause
from polyray.launch.trainer import TrainWorker
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.coordinator import DRAIN, NOT_READY, STOP, BatchLease
from polyray.runs.logging import log_at
from polyray.runs.saved_groups import SNAPSHOT_FILES, encode_groups
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch

logger = logging.getLogger(__name__)
CALL_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 10.0
"""Limit for groups that go into a checkpoint; without them they are sampled again."""
LOST_AFTER_S = 1.0
"""Limit for each group of a batch that did not arrive as a whole."""


class RemoteCoordination:
    """The learner's `Coordination`, through Ray."""

    def __init__(self, coordinator: Any, config: TrainConfig, rank: int, world_size: int) -> None:
        self._coordinator = coordinator
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._attempt = 0

    def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        """Rank 0 begins it, all ranks learn its number."""
        number = 0
        if self._rank == 0:
            patience = self._config.rollout.start_timeout_s  # the coordinator may still be starting
            number = self._call("begin_attempt", snapshot, timeout=patience)
        self._attempt = self._from_rank_0(number)
        return self._attempt

    def next_batch(self, step: int) -> TrainingBatch | StepResult:
        """Asks, at most a second at a time, until there is a batch, or none any more."""
        log_at(step=step, version=step)
        while True:
            answer = self._call("next_batch", self._attempt, step, self._rank, self._world_size)
            if answer in (STOP, DRAIN):
                return StepResult.STOP if answer == STOP else StepResult.DRAIN
            if isinstance(answer, BatchLease) and (groups := self._fetched(answer)) is not None:
                return TrainingBatch(
                    step, groups, answer.num_groups_total, answer.counters, answer.timings, answer.history
                )

    def publish(self, payload: PolicyUpdate) -> Mapping[str, float] | None:
        """Returns when every engine has proven to serve it, None where the run was stopped."""
        rollout, delivery = self._config.rollout, self._config.delivery
        if rollout.sleep_between_steps:
            give_back_gpu_memory()
        patience = (rollout.max_worker_replacements + 1) * (
            rollout.ready_within_s + rollout.group_timeout_s + delivery.timeout_s
        )
        return self._call("publish", payload, timeout=patience)

    def snapshot(self) -> Mapping[str, Any]:
        """See the coordinator; the groups that wait there as files, which `begin_attempt` takes back."""
        snapshot = self._call("snapshot")
        waiting = snapshot.pop("waiting")
        return {**snapshot, SNAPSHOT_FILES: encode_groups(_those_there(waiting))}

    def validation(self, version: int, wait: bool) -> Mapping[str, float] | None:
        """Asks the coordinator, with `wait` at most a second at a time until the values are there."""
        while True:
            answer = self._call("validation", self._attempt, version, wait)
            if answer == STOP or (answer == NOT_READY and not wait):
                return None
            if answer != NOT_READY:
                return answer

    def agree(self, verdict: StepResult) -> StepResult:
        """A broadcast from rank 0."""
        return StepResult(self._from_rank_0(int(verdict)))

    def report(self, metrics: StepMetrics) -> None:
        """Fire and forget: only displays need it. GPU memory, which no repetition gives again, is in no file."""
        gpu_memory = gpu_memory_bytes() if self._config.learner.use_gpu else {}
        self._coordinator.report.remote({**metrics, **gpu_memory})

    def _from_rank_0(self, number: int) -> int:
        """The number that rank 0 has, on every rank."""
        if self._world_size == 1:
            return number
        import torch
        import torch.distributed as dist

        shared = torch.tensor([number], dtype=torch.int64)
        dist.broadcast(shared, src=0)
        return int(shared)

    def _fetched(self, lease: BatchLease) -> tuple[ScoredGroup, ...] | None:
        """The groups of a lease; None where some are gone with their node, which the coordinator is then told."""
        try:
            return tuple(ray.get(list(lease.refs), timeout=CALL_TIMEOUT_S))
        except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
            ids = zip(lease.group_ids, lease.refs, strict=True)
            lost = tuple(group_id for group_id, ref in ids if _fetched(ref) is None)
        self._call("lost", self._attempt, lease.step, lost)
        return None

    def _call(self, method: str, *arguments: Any, timeout: float = CALL_TIMEOUT_S) -> Any:
        try:
            return ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=timeout)
        except ray.exceptions.RayTaskError as error:
            raise root_cause(error) from None


def give_back_gpu_memory() -> None:
    """Release torch's cached GPU memory for the engine that wakes; no effect without a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_memory_bytes() -> StepMetrics:
    """Memory that torch has allocated on this process's GPU, now and at most; {} without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        "gpu_memory_allocated_bytes": torch.cuda.memory_allocated(),
        "gpu_memory_peak_bytes": torch.cuda.max_memory_allocated(),
    }


def _those_there(refs: list[Any]) -> list[ScoredGroup]:
    """The groups behind these references, but for those that cannot be had soon."""
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=FETCH_TIMEOUT_S) if refs else ([], [])
    try:
        return ray.get(ready, timeout=FETCH_TIMEOUT_S)
    except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
        return [group for ref in ready if (group := _fetched(ref)) is not None]


def _fetched(ref: Any) -> ScoredGroup | None:
    """Fetch a group; None if it is gone with its node, so that it is sampled again."""
    try:
        return ray.get(ref, timeout=LOST_AFTER_S)
    except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError):
        return None


def rl_loop(worker: TrainWorker) -> None:
    """The RL loop of one rank. `worker.arguments`: coordinator (actor name), model_dir, dtype."""
    from polyray.learner.loop import run_learner
    from polyray.learner.policy import Policy
    from polyray.learner.run_files import RunFiles

    config, rank, arguments = worker.config, worker.rank, worker.arguments
    policy = Policy(config, Path(arguments["model_dir"]), arguments["dtype"], worker.device)
    coordinator = ray.get_actor(arguments["coordinator"], namespace=NAMESPACE)
    coordination = RemoteCoordination(coordinator, config, rank, worker.world_size)
    files = RunFiles(worker.run_dir, config)
    try:
        run_learner(config, policy, files, coordination, rank, lambda step: ray.train.report({"step": step}))
    except ray.exceptions.RayActorError as error:
        # Without its coordinator the run is over, and the driver says so: another attempt would only wait for it.
        logger.error("rank %d ends: the coordinator is gone: %s", rank, error)
