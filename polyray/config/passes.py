"""Whether a completion can pass: a pass is a reward of 1, which only some rewards give.

Without such a reward every metric of passes stays 0: the first version would be the best one, and all trials of a
sweep would tie. Called by run.py and by polyray sweep.
"""

from __future__ import annotations

from polyray.config.reward import CallableRewardSpec, CompositeRewardSpec, PythonRewardSpec, RewardSpec
from polyray.config.task import TaskSpec
from polyray.config.text_tasks import TextTaskSpec

METRICS_OF_PASSES = ("pass_at_", "distinct_correct_at_")
"""Prefixes of the names of metrics that need passes."""
INSTEAD = "reward_mean"
"""The metric for rewards without passes."""


def has_passes(reward: RewardSpec, task: TaskSpec) -> bool:
    """Whether a reward of 1 means "passed", or may mean it.

    A Python function with 1 in its score_range and an HTTP service may; a model, a judge and a heuristic do not.
    """
    if isinstance(reward, CompositeRewardSpec):
        return all(has_passes(part.reward, task) for part in reward.parts if part.weight > 0)
    if isinstance(reward, PythonRewardSpec | CallableRewardSpec):
        return reward.score_range[1] == 1
    if reward.type == "verifier":
        return not isinstance(task, TextTaskSpec)
    return reward.type in ("sandbox", "http")


def counts_passes(metric: str) -> bool:
    """Whether a metric, of metrics.jsonl or of a validation, is 0 where nothing passes."""
    return metric.removeprefix("validation/").startswith(METRICS_OF_PASSES)


def check_metric(key: str, metric: str, reward: RewardSpec, task: TaskSpec) -> None:
    """Raises ValueError where nothing can pass and the metric of `key` counts passes."""
    if counts_passes(metric) and not has_passes(reward, task):
        raise ValueError(
            f"{key}={metric!r} counts completions with a reward of 1, and reward.type={reward.type} with "
            f"task.type={task.type} gives none; set {key}={INSTEAD}"
        )
