"""Where the distances of a group come from: the classes of its completions, or the task's own distance.

Called by the rewards; the sources are those of config.reward.DiversitySpec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from polyray.errors import RewardError
from polyray.rewards.base import Judge, Score, ScoreItem
from polyray.types import WRONG_CLASS, Prompt

DiversitySource = Literal["task_class", "task_distance"]


def group_distances(
    task: Judge, source: DiversitySource, items: Sequence[ScoreItem], scores: Sequence[Score]
) -> list[list[float]]:
    """[G][G] in [0, 1], symmetric, zero diagonal.

    task_class: 1 between completions of two different classes, 0 where either is WRONG_CLASS. task_distance:
    `task.distance`. An unscored completion is at distance 0 from all. Raises RewardError where the task's
    distance leaves [0, 1].
    """
    matrix = [[0.0] * len(items) for _ in items]
    scored = [at for at, score in enumerate(scores) if score.score is not None]
    known: dict[tuple[str, str], float] = {}  # policies repeat themselves: equal pairs are computed once
    for place, row in enumerate(scored):
        for column in scored[:place]:
            if source == "task_class":
                distance = _class_distance(scores[row].class_id, scores[column].class_id)
            else:
                pair = (items[row].completion, items[column].completion)
                if pair not in known:
                    known[pair] = _task_distance(task, items[row].as_prompt(), *pair)
                distance = known[pair]
            matrix[row][column] = matrix[column][row] = distance
    return matrix


def _class_distance(first: int, second: int) -> float:
    return float(first != second and WRONG_CLASS not in (first, second))


def _task_distance(task: Judge, prompt: Prompt, first: str, second: str) -> float:
    distance = float(task.distance(prompt, first, second))
    if not 0.0 <= distance <= 1.0:
        raise RewardError(f"distance {distance} is outside [0, 1]; correct {type(task).__name__}.distance")
    return distance
