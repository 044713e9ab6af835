"""The learner's loop, on one screen, without Ray: pull a batch, update, publish, write, checkpoint.

Runs in every rank of a data-parallel group. What it needs from outside comes in as `Coordination` (in a run:
calls to the coordinator actor; in a test: a plain object).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from polyray.config.run import TrainConfig
from polyray.delivery.adapter import AdapterPayload
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.types import StepMetrics, TrainingBatch


class Coordination(Protocol):
    """What a learner rank asks of the rest of the run."""

    def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        """The number of this attempt, the same on every rank."""
        ...

    def next_batch(self, step: int) -> TrainingBatch | None:
        """This rank's share, as soon as there is one; None where the run was stopped."""
        ...

    def publish(self, payload: AdapterPayload) -> Mapping[str, float] | None:
        """Rank 0 only: returns when every engine has proven to serve the version; None where the run was
        stopped."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """Rank 0 only: what a checkpoint must remember of the coordinator."""
        ...

    def report(self, metrics: StepMetrics) -> None:
        """Rank 0 only: the newest metrics, for whoever watches."""
        ...


def run_learner(
    config: TrainConfig,
    policy: Policy,
    files: RunFiles,
    coordination: Coordination,
    rank: int,
    checkpointed: Callable[[int], None],
) -> bool:
    """Trains from the newest checkpoint to the last step; False where the run was stopped from outside.

    `checkpointed` is called on every rank after each checkpoint (a barrier, under Ray Train).
    """
    step, snapshot = policy.restore_newest(files.checkpoints_dir)
    attempt = coordination.begin_attempt(snapshot)
    if rank == 0:
        files.cut_to(step)
        if coordination.publish(policy.payload(attempt, step)) is None:
            return False
    finished_at = time.perf_counter()
    while step < config.learner.steps:
        batch = coordination.next_batch(step)
        if batch is None:
            return False
        started = time.perf_counter()
        metrics = policy.learner.step(batch)
        learn_s = time.perf_counter() - started
        step += 1
        at_checkpoint = step % config.learner.checkpoint_every == 0 or step == config.learner.steps
        if rank == 0:
            if at_checkpoint or config.delivery.keep_versions == "all":
                policy.save_version(files.versions_dir, attempt, step)
            receipt = coordination.publish(policy.payload(attempt, step))
            if receipt is None:
                return False
            now = time.perf_counter()
            timings = {**batch.timings, **receipt, "learn_s": learn_s, "step_s": now - finished_at}
            finished_at = now
            line = files.write_step(step - 1, batch, metrics, timings)
            coordination.report(line)
        if at_checkpoint:
            if rank == 0:
                policy.save(files.checkpoints_dir, step, coordination.snapshot())
            checkpointed(step)
    if rank == 0:
        policy.save_final(files.adapter_dir)
    return True
