"""A reward with a second one beside it that is logged and never optimised.

Training uses exactly the first reward; the second one's score travels as the component
`second_opinion`. An unscored item has no such component, never 0. The learner compares the two
(learner/group_metrics.py, learner/monitors.py). Built by RewardPlan.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from polyray.errors import RewardError
from polyray.rewards.base import GroupPartition, Reward, Score, ScoreItem
from polyray.types import SECOND_OPINION

logger = logging.getLogger(__name__)


class SecondOpinionReward:
    """The first reward in everything but one component."""

    inline = False

    def __init__(self, reward: Reward, second: Reward) -> None:
        self._reward, self._second = reward, second
        self._warned = False
        self.name = reward.name
        self.version = f"{reward.version}+{second.version}"
        self.deterministic = reward.deterministic and second.deterministic
        self.score_range = reward.score_range

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """The first reward's scores, with the second one's as a component."""
        scores = self._reward.score(items)
        return [
            score
            if opinion is None
            else replace(score, components={**score.components, SECOND_OPINION: opinion})
            for score, opinion in zip(scores, self._opinions(items), strict=True)
        ]

    def group_classes(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[int]:
        """The first reward's, where it has such; else those of the scores."""
        if isinstance(self._reward, GroupPartition):
            return self._reward.group_classes(items, scores)
        return [score.class_id for score in scores]

    def distances(self, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[list[float]]:
        """The first reward's."""
        return self._reward.distances(items, scores)

    def _opinions(self, items: Sequence[ScoreItem]) -> list[float | None]:
        try:
            scores = self._second.score(items)
            if len(scores) != len(items):
                raise RewardError(f"{len(scores)} scores for {len(items)} items")
        except Exception as error:  # it must never cost a training step anything
            self._warn(f"{type(error).__name__}: {error}")
            return [None] * len(items)
        failed = next((score.error for score in scores if score.score is None), None)
        if failed is not None:
            self._warn(failed)
        return [score.score for score in scores]

    def _warn(self, reason: str) -> None:
        """Warn once about missing scores; their share is a metric of every step (second_opinion_missing)."""
        if not self._warned:
            logger.warning("the second opinion %s is missing for some items: %s", self._second.name, reason)
        self._warned = True
