"""Programs that the policy wrote, judged by their tests in the sandbox: 1 for passed, 0 for everything else it did.

A program that could not run for our own reasons is unscored, never 0. Runs inside the replicas of the reward service:
each has its own runners, `workers` programs run at a time, and equal programs of one call run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from polyray.config.reward import DiversitySpec, SandboxRewardSpec
from polyray.errors import ConfigError, SandboxError
from polyray.rewards.base import Judge, Score, ScoreItem, unscored
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.task_reward import TaskReward
from polyray.sandbox import Limits, Program, ProgramResult, run_programs
from polyray.types import WRONG_CLASS, Prompt

FAILURES = ("failed", "timeout", "memory", "crashed", "no_verdict")
"""Verdicts that score 0; the share of each is a component, so that a policy that learns to exit early shows."""


@runtime_checkable
class ProgramSource(Protocol):
    """The part of a task that this reward needs besides being a Judge."""

    def program(self, prompt: Prompt, completion: str) -> Program:
        """The program of a completion, with its tests."""
        ...


def require_consent(spec: SandboxRewardSpec) -> None:
    """Raises ConfigError unless the user agreed to run what a model wrote."""
    if not spec.allow_code_execution:
        raise ConfigError(
            "reward.type=sandbox runs programs that a model wrote, and reward.allow_code_execution=false forbids it; "
            "say --allow-code-execution, or reward.allow_code_execution: true, if this machine may run them"
        )


class SandboxReward(TaskReward):
    """Scores completions by running them; a program near its time limit may pass one time and not the other."""

    deterministic = False

    def __init__(
        self,
        task: Judge,
        spec: SandboxRewardSpec,
        name: str = "sandbox",
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
    ) -> None:
        """Raises ConfigError without the user's consent, or for a task without programs."""
        require_consent(spec)
        if not isinstance(task, ProgramSource):
            raise ConfigError(
                f"reward.type=sandbox needs a task that makes programs of completions; {type(task).__name__} has no "
                "method `program`: use task.type: code, or reward.type: verifier"
            )
        super().__init__(task, name, version, diversity, device)
        self._programs = task
        self._limits = Limits(timeout_s=spec.timeout_s, memory_mib=spec.memory_mib)
        self._workers, self._strict = spec.workers, spec.strict

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; components: 1.0 for the verdict that kept an item from passing, else 0.0."""
        scores: list[Score | None] = [None] * len(items)
        programs: dict[int, Program] = {}
        for at, item in enumerate(items):
            try:
                programs[at] = self._programs.program(item.as_prompt(), item.completion)
            except Exception as error:  # one prompt from outside must not take the batch's other groups down
                scores[at] = self._cannot_judge(error)
        results = run_programs(programs.values(), self._limits, self._workers, self._strict)
        places, reason = iter(programs), ""
        try:
            for result in results:
                at = next(places)
                scores[at] = self._score_of(items[at], result)
        except SandboxError as error:
            reason = str(error)
        return [unscored(f"{self.name}: {reason}") if score is None else score for score in scores]

    def _score_of(self, item: ScoreItem, result: ProgramResult) -> Score:
        if result.verdict == "sandbox_error":
            return unscored(f"{self.name}: sandbox_error: {result.message}; isolation {result.isolation}")
        components = {verdict: float(result.verdict == verdict) for verdict in FAILURES}
        if not result.passed:
            return Score(0.0, WRONG_CLASS, components)
        return self._judged(item, 1.0, components)

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances of one group, see `group_distances`; 0 to and from programs that did not pass."""
        matrix = super().distances(items, scores)
        passed = [score.class_id != WRONG_CLASS for score in scores]
        return [
            [value if passed[i] and passed[j] else 0.0 for j, value in enumerate(row)]
            for i, row in enumerate(matrix)
        ]
