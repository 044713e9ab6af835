"""A reward that lives elsewhere: its scores, our classes and distances. configs: `reward.type: http`.

Scores come through client.py; what does not come is unscored, with the reason. Classes and distances are those of
this run's task and `diversity`, so that every reward means the same by them; `classes: service` takes the
classes of a polyray service instead. A service's reward may change behind its address: such scores are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.reward import DiversitySpec
from polyray.errors import ConfigError
from polyray.rewards.base import Judge, Score, ScoreItem
from polyray.rewards.client import RewardServiceClient
from polyray.rewards.distances import TASK_DISTANCE
from polyray.rewards.task_reward import TaskReward
from polyray.rewards.wires import build_wire
from polyray.types import WRONG_CLASS


class HttpReward(TaskReward):
    """Reward that asks a service for scores."""

    deterministic = False

    def __init__(
        self,
        spec: HttpRewardSpec,
        task: Judge,
        version: str = "1",
        diversity: DiversitySpec = TASK_DISTANCE,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        """`options` are those of the client. Raises ConfigError where the token's variable is not set."""
        super().__init__(task, f"http/{spec.model or spec.protocol}", version, diversity, device)
        self._own_classes = spec.classes == "task"
        self.client = RewardServiceClient(
            spec.url, spec.client, wire=build_wire(spec), token=read_token(spec), **options
        )

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """One Score per item; components are the service's."""
        scores = self.client.score(items).scores
        if not self._own_classes:
            return list(scores)
        return [self._with_class(item, score) for item, score in zip(items, scores, strict=True)]

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """The task's partition, or the service's classes as they are."""
        if self._own_classes:
            return super().group_classes(items, scores)
        return [score.class_id for score in scores]

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()

    def _with_class(self, item: ScoreItem, score: Score) -> Score:
        if score.score is None:
            return score
        judged = self._judged(item, score.score, score.components)
        if judged.score is not None and score.class_id == WRONG_CLASS:  # wrong for the service stays wrong
            return Score(judged.score, WRONG_CLASS, judged.components)
        return judged


def read_token(spec: HttpRewardSpec) -> str | None:
    """The service's token; None where none is named. Raises ConfigError where its variable is not set."""
    if spec.token_env is None:
        return None
    token = os.environ.get(spec.token_env, "").strip()
    if not token:
        raise ConfigError(
            f"reward.token_env={spec.token_env}: the environment variable is not set; export {spec.token_env}=..., "
            "or remove token_env if the service wants no token"
        )
    return token
