"""The task's own verifier as a Reward; fast and pure, so it may run on a service's event loop."""

from __future__ import annotations

from collections.abc import Sequence

from polyray.config.reward import DiversitySpec
from polyray.rewards.base import Judge, Score, ScoreItem, checked_score, unscored
from polyray.rewards.distances import TASK_DISTANCE, group_distances


class VerifierReward:
    """Asks the task for reward and class of each completion."""

    inline = True

    def __init__(
        self,
        task: Judge,
        name: str = "verifier",
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
    ) -> None:
        self.name = name
        self.version = version
        self._task = task
        self._diversity = diversity

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; a completion or prompt that the task chokes on is unscored."""
        return [self._score_one(item) for item in items]

    def _score_one(self, item: ScoreItem) -> Score:
        prompt = item.as_prompt()
        try:
            reward = self._task.reward(prompt, item.completion)
            class_id = self._task.completion_class(prompt, item.completion)
        except Exception as error:  # one prompt from outside must not take the batch's other groups down
            return unscored(f"{self.name} cannot judge this completion: {type(error).__name__}: {error}")
        return checked_score(reward, class_id, {}, who=self.name)

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """The task's partition of the completions of one prompt."""
        if not items:
            return []
        return self._task.partition(items[0].as_prompt(), [item.completion for item in items])

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """[G][G] distances of one group; see `group_distances`."""
        return group_distances(self._task, self._diversity, items, scores)
