"""Scorers of an evaluation's samples: a reward, or programs in the sandbox.

    (prompt, texts) --Scorer--> one Scored per text: reward, class, verdict, time and memory
    samples, one after another --StreamScorer--> the same, in order

A reward knows a number only; the sandbox also says how a program ended. Scorers are called by sampling.py, in
threads, while the engines keep sampling; stream scorers by score_file.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from polyray.config.reward import RewardSpec, SandboxRewardSpec
from polyray.config.task import TaskSpec
from polyray.errors import ConfigError
from polyray.evaluation.raw_samples import RawSample
from polyray.rewards import plan_reward
from polyray.rewards.base import Reward
from polyray.rewards.groups import GroupToScore, score_groups
from polyray.rewards.sandbox import require_consent
from polyray.rewards.verifier import VerifierReward
from polyray.sandbox import Limits, Program, ProgramResult, run_programs
from polyray.tasks import build_task
from polyray.tasks.base import Task
from polyray.types import WRONG_CLASS, Prompt

UNSCORED = "unscored"


@dataclass(frozen=True, slots=True)
class Scored:
    """Result of one completion.

    Example:
        Scored(reward=0.0, class_id=-1, verdict="timeout", message="no end within 3 s", wall_s=3.02)
    """

    reward: float
    """In [0, 1]; NaN = unscored."""
    class_id: int = WRONG_CLASS
    verdict: str | None = None
    """Ending of a program; None: the reward decides."""
    message: str = ""
    wall_s: float | None = None
    cpu_s: float | None = None
    max_rss: int | None = None
    """Bytes."""
    isolation: str = "none"


class Scorer(Protocol):
    """Judges all samples of one prompt; may be called from several threads at once."""

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> Sequence[Scored]:
        """One Scored per text, in order."""
        ...


StreamScorer = Callable[[Iterable[RawSample]], Iterator[Scored]]
"""Judges samples one after another, in order, reading ahead as far as it likes."""


class RewardScorer:
    """Any Reward."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
        """See Scorer."""
        scores = score_groups(self._reward, [GroupToScore(prompt, tuple(texts))])[0]
        return [
            Scored(float(reward), int(class_id), UNSCORED if math.isnan(reward) else None, error or "")
            for reward, class_id, error in zip(scores.rewards_G, scores.classes_G, scores.errors, strict=True)
        ]


@runtime_checkable
class ProgramTask(Protocol):
    """A task with programs as completions."""

    def program(self, prompt: Prompt, completion: str) -> Program:
        """The program that judges a completion."""
        ...

    def program_of_solution(self, prompt: Prompt, solution: str) -> Program:
        """The program that judges a whole solution."""
        ...

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        """The class of a completion that passed."""
        ...

    def class_of_solution(self, prompt: Prompt, solution: str) -> int:
        """The class of a whole program that passed."""
        ...


class ProgramScorer:
    """Programs in the sandbox; equal ones of a group run once."""

    def __init__(self, task: Task, reward: SandboxRewardSpec) -> None:
        """Raises ConfigError without the user's consent, or for a task without programs."""
        require_consent(reward)
        if not isinstance(task, ProgramTask):
            raise ConfigError(
                f"reward.type=sandbox runs programs, but completions of {task.name} are none; use "
                "reward.type=verifier"
            )
        self._task: ProgramTask = task
        self._limits = Limits(timeout_s=reward.timeout_s, memory_mib=reward.memory_mib)
        self._workers, self._strict = reward.workers, reward.strict

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[Scored]:
        """See Scorer."""
        return list(self.stream((prompt, text, False) for text in texts))

    def stream(self, texts: Iterable[tuple[Prompt, str, bool]]) -> Iterator[Scored]:
        """One Scored per (prompt, text, whether it is a whole program), in order, reading a little ahead."""
        ahead, behind = itertools.tee(texts)
        programs = (
            self._task.program_of_solution(prompt, text) if whole else self._task.program(prompt, text)
            for prompt, text, whole in ahead
        )
        results = run_programs(programs, self._limits, self._workers, strict=self._strict)
        for (prompt, text, whole), result in zip(behind, results, strict=True):
            class_of = self._task.class_of_solution if whole else self._task.completion_class
            yield _scored(result, class_of(prompt, text) if result.passed else WRONG_CLASS)


def _scored(result: ProgramResult, class_id: int) -> Scored:
    return Scored(
        reward=math.nan if result.verdict == "sandbox_error" else float(result.passed),
        class_id=class_id,
        verdict=result.verdict,
        message=result.message,
        wall_s=result.wall_s,
        cpu_s=result.cpu_s,
        max_rss=result.max_rss,
        isolation=result.isolation,
    )


def build_scorer(reward: RewardSpec, task_spec: TaskSpec) -> Scorer:
    """Build the scorer of an evaluation with this reward."""
    if isinstance(reward, SandboxRewardSpec):
        return ProgramScorer(build_task(task_spec), reward)
    return RewardScorer(plan_reward(reward, task_spec).build())


def build_stream_scorer(task: Task, reward: SandboxRewardSpec) -> StreamScorer:
    """Build the scorer for a file of samples of `task`: its programs in the sandbox, or its verifier."""
    if isinstance(task, ProgramTask):
        scorer = ProgramScorer(task, reward)
        return lambda raw: scorer.stream(
            (sample.prompt, sample.record.completion, sample.is_program) for sample in raw
        )
    verifier = RewardScorer(VerifierReward(task))
    return lambda raw: (
        scored for sample in raw for scored in verifier(sample.prompt, [sample.record.completion])
    )
