"""A run without a model on real coordinator, pool and reward service.

Engines are simulated and the learner only waits, so a run starts in seconds and a step takes hundredths of one.
Faults of everything but the model are tried on it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import ray

from polyray.config.run import TrainConfig
from polyray.launch.fleet import Fleet
from polyray.launch.rl_worker import RemoteCoordination
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate, Probe, sha256_of
from polyray.orchestrator.coordinator import start_coordinator
from polyray.orchestrator.rollout_actor import Scoring
from polyray.runs.history import check_history
from polyray.runs.saved_groups import SNAPSHOT_FILES
from polyray.types import PolicyVersion

PROBE = Probe(((1, 2, 3),), np.array([-0.5, -1.0], np.float32), None)


class SimulatedRun:
    """One coordinator and the history that its batches make."""

    def __init__(self, config: TrainConfig, fleet: Fleet) -> None:
        self.config = config
        self.pool = fleet.pool
        self._scoring = Scoring(
            fleet.reward.app_name,
            config.reward.service,
            False,
            config.algorithm,
            config.rollout.group_timeout_s,
            fleet.remote,
        )
        self.lines: list[dict[str, Any]] = []
        self.snapshot: Any = None
        self.start_coordinator()

    def start_coordinator(self) -> None:
        """Start a coordinator that resumes from `snapshot`."""
        name = f"chaos-{uuid.uuid4().hex[:6]}"
        self.coordinator: Any = start_coordinator(name, self.config, self.pool, self._scoring)

    def learn(self, steps: int, after_step: Callable[[int], None] | None = None, step_s: float = 0.02) -> str:
        """Learn from the snapshot to step `steps`, with a snapshot after each.

        Returns 'done' or 'drained', or raises the failure.
        """
        coordination = RemoteCoordination(self.coordinator, self.config, 0, 1)
        attempt = coordination.begin_attempt(self.snapshot)
        step = self.snapshot["version"] if self.snapshot else 0
        self.lines = [line for line in self.lines if line["step"] < step]
        if coordination.publish(version(attempt, step)) is None:
            self._raise_failure()
        while step < steps:
            batch = coordination.next_batch(step)
            if batch is StepResult.DRAIN:
                return "drained"
            if isinstance(batch, StepResult):
                self._raise_failure()
            time.sleep(step_s)
            step += 1
            if coordination.publish(version(attempt, step)) is None:
                self._raise_failure()
            self.lines.append(dict(batch.history))
            self.snapshot = as_written(coordination.snapshot())
            if after_step is not None:
                after_step(step)
        return "done"

    def snapshot_with_groups(self) -> None:
        """Take snapshots until one has scored groups."""
        coordination = RemoteCoordination(self.coordinator, self.config, 0, 1)
        deadline = time.monotonic() + 30
        while not self.snapshot[SNAPSHOT_FILES]:
            assert time.monotonic() < deadline, "no group was scored for 30 s"
            time.sleep(0.02)
            self.snapshot = as_written(coordination.snapshot())

    def incidents(self) -> list[dict[str, str]]:
        """Incidents of the coordinator."""
        state: Any = ray.get(self.coordinator.progress.remote())
        return state["incidents"]

    def _raise_failure(self) -> NoReturn:
        failure: Any = ray.get(self.coordinator.failure.remote())
        raise failure

    def check(self) -> None:
        """Every planned group was consumed once."""
        rollout = self.config.rollout
        check_history(
            self.lines,
            batch=rollout.prompts_per_step,
            max_staleness=rollout.max_staleness,
            steps=self.config.learner.steps,
        )

    def end(self) -> None:
        """The pool goes on with the workers that the coordinator left."""
        self.pool.adopt(ray.get(self.coordinator.workers.remote()))
        ray.kill(self.coordinator)
        self.pool.repair()


def as_written(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot as read from a checkpoint, through JSON without its files."""
    plain = {key: value for key, value in snapshot.items() if key != SNAPSHOT_FILES}
    return {**json.loads(json.dumps(plain)), SNAPSHOT_FILES: snapshot[SNAPSHOT_FILES]}


def version(attempt: int, number: int) -> PolicyUpdate:
    """A version without weights, whose probe simulated engines answer."""
    return PolicyUpdate(PolicyVersion(attempt, number, sha256_of(b"")), b"", None, PROBE)
