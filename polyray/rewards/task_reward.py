"""Base class of most rewards: their own score, with classes and distances of task and configuration.

Used by verifier.py, sandbox.py, heuristic.py, judge.py, remote.py. Rewards with their own classes
(python_function.py, composite.py) do not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyray.config.reward import DiversitySpec
from polyray.rewards.base import UNIT_RANGE, Judge, Score, ScoreItem, checked_score, unscored
from polyray.rewards.distances import TASK_DISTANCE, group_distances


class TaskReward:
    """Subclasses add `score`, and say so where an equal item may get another score."""

    inline = False
    deterministic = True
    score_range = UNIT_RANGE

    def __init__(
        self,
        task: Judge,
        name: str,
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
    ) -> None:
        """`device` is that of the encoder, where distances or the score need one."""
        self.name = name
        self.version = version
        self._task = task
        self._diversity = diversity
        self._device = device

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """The task's partition of the completions of one prompt."""
        if not items:
            return []
        return self._task.partition(items[0].as_prompt(), [item.completion for item in items])

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances of one group; see `group_distances`."""
        return group_distances(self._task, self._diversity, items, scores, self._device)

    def _judged(self, item: ScoreItem, value: float, components: Mapping[str, float]) -> Score:
        """`value` with the task's class; unscored where the task chokes on the completion or its prompt."""
        try:
            class_id = self._task.completion_class(item.as_prompt(), item.completion)
        except Exception as error:  # one prompt from outside must not take the batch's other groups down
            return self._cannot_judge(error)
        return checked_score(value, class_id, components, self.name, self.score_range)

    def _cannot_judge(self, error: Exception) -> Score:
        return unscored(f"{self.name} cannot judge this completion: {type(error).__name__}: {error}")
