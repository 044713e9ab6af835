"""Everything that a replica needs to build its reward: read and checked on the driver, plain data on the way.

    plan_reward(spec, task, diversity) on the driver --pickled--> RewardPlan.build() where completions are scored

The user's files travel as text, paths are absolute: replicas have a working directory of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyray.config.reward import DiversitySpec, PythonRewardSpec, RewardSpec, SandboxRewardSpec
from polyray.config.task import TaskSpec
from polyray.data.sources import BUILTIN
from polyray.rewards.base import Reward
from polyray.rewards.python_function import load_reward_source
from polyray.rewards.sandbox import require_consent


@dataclass(frozen=True, slots=True)
class RewardPlan:
    """A reward to be built.

    Example:
        RewardPlan(PythonRewardSpec(path="mine.py:score"), HiddenTrapGridSpec(), DiversitySpec(),
                   sources={"mine.py:score": "def score(items): ..."})
    """

    reward: RewardSpec
    task: TaskSpec
    diversity: DiversitySpec
    sources: Mapping[str, str]
    """`path` of a reward -> the text of the user's file."""

    def build(self) -> Reward:
        """The reward. Raises RewardError where the user's code cannot be executed, DataError where a file of
        the task is missing."""
        from polyray.rewards import REWARDS

        return REWARDS[self.reward.type](self.reward, self)


def plan_reward(reward: RewardSpec, task: TaskSpec, diversity: DiversitySpec | None = None) -> RewardPlan:
    """Reads the user's files and makes paths absolute; nothing of the user's is executed.

    Raises ConfigError for a file that cannot be read, and where programs are to be run without the user's
    consent.
    """
    sources: dict[str, str] = {}
    if isinstance(reward, SandboxRewardSpec):
        require_consent(reward)
    if isinstance(reward, PythonRewardSpec):
        sources[reward.path] = load_reward_source(reward.path)
    return RewardPlan(reward, _portable(task), diversity or DiversitySpec(), sources)


def _portable(task: TaskSpec) -> TaskSpec:
    paths = {
        name: str(Path(value).expanduser().absolute())
        for name, value in task
        if (name == "path" or name.endswith("_path")) and value not in (None, BUILTIN)
    }
    return task.model_copy(update=paths) if paths else task
