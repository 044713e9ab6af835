"""The task's own verifier as a Reward; fast and pure, so it may run on a service's event loop."""

from __future__ import annotations

from collections.abc import Sequence

from polyray.config.reward import DiversitySpec
from polyray.rewards.base import Judge, Score, ScoreItem
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.task_reward import TaskReward


class VerifierReward(TaskReward):
    """Asks the task for reward and class of each completion."""

    inline = True

    def __init__(
        self,
        task: Judge,
        name: str = "verifier",
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
    ) -> None:
        super().__init__(task, name, version, diversity, device)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; a completion or prompt that the task chokes on is unscored."""
        return [self._score_one(item) for item in items]

    def _score_one(self, item: ScoreItem) -> Score:
        try:
            reward = self._task.reward(item.as_prompt(), item.completion)
        except Exception as error:  # one prompt from outside must not take the batch's other groups down
            return self._cannot_judge(error)
        return self._judged(item, reward, {})
