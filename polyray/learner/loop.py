"""The learner's loop, without Ray: pull a batch, update, publish, validate, write, checkpoint.

Runs in every rank of a data-parallel group. `Coordination` is its only link to the rest of the run (in a run:
calls to the coordinator actor; in a test: a plain object).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from polyray.config.run import TrainConfig
from polyray.learner.checkpoints import CheckpointStore
from polyray.learner.periodic_eval import EvalResults
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.periodic_eval import UNVALIDATED
from polyray.types import StepMetrics, TrainingBatch


class Coordination(Protocol):
    """Requests of a learner rank to the rest of the run."""

    def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        """The number of this attempt, the same on every rank."""
        ...

    def next_batch(self, step: int) -> TrainingBatch | StepResult:
        """This rank's share, as soon as there is one; STOP or DRAIN where there will be none."""
        ...

    def publish(self, payload: PolicyUpdate) -> Mapping[str, float] | None:
        """Rank 0 only: returns when every engine has proven to serve the version; None where the run was
        stopped."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """Rank 0 only: what a checkpoint must remember of the coordinator."""
        ...

    def validation(self, version: int, wait: bool) -> Mapping[str, float] | None:
        """Rank 0 only: what the fixed prompts say of a published version, see periodic_eval.py.

        Without `wait` None says: not yet; with it: the run was stopped.
        """
        ...

    def agree(self, verdict: StepResult) -> StepResult:
        """Every rank, once a step where a run may end early: rank 0's verdict, which all others wait for."""
        ...

    def report(self, metrics: StepMetrics) -> None:
        """Hand out the newest metrics for display; rank 0 only."""
        ...


def run_learner(
    config: TrainConfig,
    policy: Policy,
    files: RunFiles,
    coordination: Coordination,
    rank: int,
    checkpointed: Callable[[int], None],
) -> bool:
    """Trains from the newest checkpoint to the last step or until early stopping; False where the run was stopped
    from outside.

    `checkpointed` is called on every rank after each checkpoint (a barrier, under Ray Train).
    """
    learner, store = config.learner, CheckpointStore(config, files.checkpoints_dir)
    restored = policy.restore(store.newest())
    step, attempt = restored.step, coordination.begin_attempt(restored.snapshot)
    watching = EvalResults(config, files.run_dir, policy.write_adapter)
    watching.restore(restored.validation, restored.files, writes=rank == 0)
    main = _MainRank(config, policy, files, coordination, watching, store, attempt) if rank == 0 else None
    if main is None:
        policy.accompany_payload()
    elif not main.begin(step):
        return False
    saved = restored.step if restored.snapshot is not None else None
    while step < learner.steps and not watching.is_over:
        batch = coordination.next_batch(step)
        if isinstance(batch, StepResult):
            if batch is StepResult.DRAIN and saved != step:
                if main is not None:
                    main.checkpoint(step, last=True)
                checkpointed(step)
            elif batch is StepResult.DRAIN and main is not None:
                main.finish_copies()
            return False
        started = time.perf_counter()
        metrics = policy.learner.step(batch)
        learn_s = time.perf_counter() - started
        step += 1
        if main is None:
            policy.accompany_payload()
            verdict = StepResult.GO_ON
        else:
            verdict = main.after_step(step, batch, metrics, learn_s)
        if config.may_end_early:
            verdict = coordination.agree(verdict)
        if verdict is StepResult.STOP:
            return False
        last = verdict is StepResult.FINISH or step == learner.steps
        if last or step % learner.checkpoint_every == 0:
            if main is not None:
                main.checkpoint(step, last)
            checkpointed(step)
            saved = step
        if last:
            break
    if main is not None:
        policy.save_final(files.adapter_dir)
    return True


class _MainRank:
    """Duties of rank 0 besides training: publish, validate, write."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        files: RunFiles,
        coordination: Coordination,
        watching: EvalResults,
        store: CheckpointStore,
        attempt: int,
    ) -> None:
        self._config = config
        self._policy = policy
        self._files = files
        self._coordination = coordination
        self._watching = watching
        self._store = store
        self._attempt = attempt
        self._finished_at = 0.0

    def begin(self, step: int) -> bool:
        """Cuts the logs to the checkpoint and has its version served; False where the run was stopped."""
        self._files.cut_to(step)
        served = self._publish(step)
        self._finished_at = time.perf_counter()
        return served is not None

    def after_step(self, step: int, batch: TrainingBatch, metrics: StepMetrics, learn_s: float) -> StepResult:
        """Publish and validate version `step`, and write the line of the step that made it."""
        learner, kept = self._config.learner, self._config.delivery.keep_versions == "all"
        kept = kept or step % learner.checkpoint_every == 0 or step == learner.steps
        if kept:  # before it is served: what an engine serves can always be read
            self._policy.save_version(self._files.versions_dir, self._attempt, step)
        receipt = self._publish(step)
        if receipt is None:
            return StepResult.STOP
        now = time.perf_counter()
        timings = {**batch.timings, **receipt, "learn_s": learn_s, "step_s": now - self._finished_at}
        self._finished_at = now
        values = {**metrics, **self._watching.for_next_line()}
        advantages = self._policy.learner.trained_advantages
        line = self._files.write_step(step - 1, batch, values, timings, advantages)
        self._coordination.report({**line, **self._watching.newest})
        if not self._watching.is_over:
            return StepResult.GO_ON
        if not kept:  # that it would be the last was not known before
            self._policy.save_version(self._files.versions_dir, self._attempt, step)
        return StepResult.FINISH

    def checkpoint(self, step: int, last: bool) -> None:
        """One cut of everything, as `learner` says how many are kept."""
        watching = self._watching
        snapshot = {**self._coordination.snapshot(), UNVALIDATED: watching.outstanding}

        def write(also_keep: Collection[int]) -> Path:
            return self._policy.save(
                self._files.checkpoints_dir,
                step,
                snapshot,
                validation=watching.state(),
                files=watching.files(),
                also_keep=also_keep,
            )

        scores = self._files.scores or watching.scores
        self._store.save(step, write, scores, needed=lambda: self._policy.checkpoint_bytes, last=last)

    def finish_copies(self) -> None:
        """Waits until the newest checkpoint is in the storage: the process ends."""
        self._store.finish()

    def _publish(self, version: int) -> dict[str, float] | None:
        """Timings of delivery and, where it was waited for, of validation; None where the run was stopped."""
        payload = self._policy.payload(self._attempt, version)
        receipt = self._coordination.publish(payload)
        if receipt is None:
            return None
        self._watching.published(payload)
        learner = self._config.learner
        # After a resume no worker can serve an earlier version again, so a checkpoint waits for their results.
        before = version if version % learner.checkpoint_every == 0 else 0
        waited = self._watching.collect(self._coordination, last=version == learner.steps, before=before)
        return None if waited is None else {**receipt, **waited}
