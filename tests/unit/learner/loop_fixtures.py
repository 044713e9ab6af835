"""The learner's loop in one process: a Coordination of plain objects, and a start of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyray.config.run import TrainConfig
from polyray.learner.loop import run_learner
from polyray.learner.policy import Policy
from polyray.learner.run_files import RunFiles
from polyray.learner.step_result import StepResult
from polyray.models.adapter import PolicyUpdate
from polyray.orchestrator.rollout_buffer import Finished, RolloutBuffer
from polyray.seeds import sample_seed
from polyray.types import ScoredGroup, StepMetrics, TrainingBatch
from tests.unit.learner.step_fixtures import token_logprobs
from tests.unit.tiny_policy import random_group


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class InMemory:
    """A Coordination in this process: the real ledger, groups from seeds, log-probs of the policy itself.

    The three `*_at` end the run: no batch for a step, no delivery of a version, death before a checkpoint.
    """

    config: TrainConfig
    policy: Policy
    no_batch_at: int | None = None
    no_delivery_at: int | None = None
    drained_at: int | None = None
    killed_at: int | None = None
    values: dict[int, float] = field(default_factory=dict)
    """Version -> pass_at_1 on the fixed prompts."""
    values_late_by: int = 0
    """Not there before so many later versions are served, unless somebody waits."""
    snapshots_given: list[Any] = field(default_factory=list)
    published: list[PolicyUpdate] = field(default_factory=list)
    reported: list[StepMetrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        rollout = self.config.rollout
        self.ledger: RolloutBuffer[ScoredGroup] = RolloutBuffer(
            rollout.prompts_per_step, rollout.max_staleness, self.config.learner.steps
        )
        self._under_way: list[int] = []

    def begin_attempt(self, snapshot: Mapping[str, Any] | None) -> int:
        self.snapshots_given.append(snapshot)
        return self.ledger.restore(snapshot)

    def next_batch(self, step: int) -> TrainingBatch | StepResult:
        if step in (self.no_batch_at, self.drained_at):
            return StepResult.STOP if step == self.no_batch_at else StepResult.DRAIN
        while self._under_way or self.ledger.may_start(step):
            self._sample(self._under_way.pop() if self._under_way else self.ledger.next_id())
        cut = self.ledger.take_batch(step)
        assert cut is not None
        groups = tuple(item.handle for item in cut.groups)
        dropped = self.ledger.counts.dropped
        counters = {"groups_used": len(groups), "groups_dropped": dropped, "staleness_mean": 0.0}
        history = {"step": step, "groups": [item.group_id for item in cut.groups]}
        return TrainingBatch(
            step, groups, len(groups), counters, {"generate_s": 0.1, "score_s": 0.1}, history
        )

    def publish(self, payload: PolicyUpdate) -> Mapping[str, float] | None:
        if payload.policy.version == self.no_delivery_at:
            return None
        self.published.append(payload)
        self.ledger.published(payload.policy.version)
        return {"deliver_s": 0.1, "delivery_difference_max": 0.0, "idle_generate": 0.0}

    def snapshot(self) -> Mapping[str, Any]:
        if self.ledger.learner_version == self.killed_at:
            raise Killed
        if self.ledger.may_start(self.ledger.learner_version):
            self._under_way.append(self.ledger.next_id())  # as in a run: checkpoints find groups under way
        return self.ledger.snapshot()

    def validation(self, version: int, wait: bool) -> Mapping[str, float] | None:
        late = self.published[-1].policy.version < version + self.values_late_by
        return None if late and not wait else {"pass_at_1": self.values[version], "reward_mean": 0.5}

    def agree(self, verdict: StepResult) -> StepResult:
        return verdict

    def report(self, metrics: StepMetrics) -> None:
        self.reported.append(metrics)

    def _sample(self, group_id: int) -> None:
        """Tokens and rewards depend on the id alone, log-probs on the policy."""
        draw = np.random.default_rng(sample_seed(self.config.seed, group_id, 0))
        rewards = draw.integers(0, 3, self.config.rollout.group_size) / 2
        scored = random_group(group_id, rewards.tolist(), policy=self.published[-1].policy)
        with torch.no_grad():
            completions = tuple(
                replace(
                    item,
                    rollout_logprobs=token_logprobs(
                        self.policy.model, scored.group.prompt_token_ids, item.token_ids, 1.0
                    ).numpy(),
                )
                for item in scored.group.completions
            )
        scored = replace(scored, group=replace(scored.group, completions=completions))
        self.ledger.finished(
            Finished(group_id, scored.group.policy, scored, scored.group.num_tokens, 0.0, 0.0)
        )


@dataclass
class Attempt:
    """One start of the process."""

    coordination: InMemory
    finished: bool
    checkpoints: list[int]


def start(run_dir: Path, model_dir: Path, config: TrainConfig, rank: int = 0, **ends: Any) -> Attempt:
    policy = Policy(config, model_dir, "float32", torch.device("cpu"))
    coordination = InMemory(config, policy, **ends)
    checkpoints: list[int] = []
    try:
        finished = run_learner(
            config, policy, RunFiles(run_dir, config), coordination, rank, checkpoints.append
        )
    except Killed:
        finished = False
    return Attempt(coordination, finished, checkpoints)
