"""From items to groups: scores many groups with one call of a Reward, and checks scores from elsewhere.

Called by the reward service (one batch) and by its client (one answer); no ray here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyray.errors import RewardError
from polyray.rewards.base import (
    GroupPartition,
    GroupScores,
    Reward,
    Score,
    ScoreItem,
    checked_score,
    unscored,
)
from polyray.types import WRONG_CLASS, Prompt


@dataclass(frozen=True, slots=True)
class GroupToScore:
    """The completions of one prompt, to be scored together.

    Example:
        GroupToScore(prompt=Prompt(...), texts=("RU", "UR"), want_distances=True)
    """

    prompt: Prompt
    texts: tuple[str, ...]
    want_distances: bool = False


def score_groups(reward: Reward, requests: Sequence[GroupToScore]) -> list[GroupScores]:
    """One GroupScores per request, in order, with a single call of `reward.score` for all of them."""
    items = [[ScoreItem.of(request.prompt, text) for text in request.texts] for request in requests]
    scores = iter(reward.score([item for group in items for item in group]))
    return [
        group_scores(reward, group, [next(scores) for _ in group], request.want_distances)
        for request, group in zip(requests, items, strict=True)
    ]


def with_group_classes(reward: Reward, items: Sequence[ScoreItem], scores: Sequence[Score]) -> list[Score]:
    """The scores of one prompt's completions with the classes of the group, where the reward has such.

    WRONG_CLASS stays. All become unscored where the partition fails.
    """
    counted = [at for at, score in enumerate(scores) if score.class_id != WRONG_CLASS]
    answer = list(scores)
    if not counted or not isinstance(reward, GroupPartition):
        return answer
    try:
        classes = reward.group_classes([items[at] for at in counted], [scores[at] for at in counted])
        if len(classes) != len(counted):
            raise RewardError(f"{len(classes)} classes for {len(counted)} completions; return one for each")
    except Exception as error:  # one group's texts must not take the batch's other groups down
        return [unscored(f"{reward.name}, classes: {type(error).__name__}: {error}")] * len(answer)
    for at, class_id in zip(counted, classes, strict=True):
        score = answer[at]
        if score.score is not None:
            answer[at] = checked_score(score.score, class_id, score.components, who=reward.name)
    return answer


def group_scores(
    reward: Reward, items: Sequence[ScoreItem], scores: Sequence[Score], want_distances: bool
) -> GroupScores:
    """The scores of one group's items as arrays, with the group's classes and distances."""
    scores = with_group_classes(reward, items, scores)
    try:
        distances = reward.distances(items, scores) if want_distances else None
    except Exception as error:  # one group's texts must not take the batch's other groups down
        return GroupScores.unscored(len(items), f"{reward.name}, distances: {type(error).__name__}: {error}")
    names = sorted({name for score in scores for name in score.components})
    return GroupScores(
        rewards_G=np.array([np.nan if score.score is None else score.score for score in scores], np.float64),
        classes_G=np.array([score.class_id for score in scores], np.int64),
        distances_GG=None if distances is None else np.array(distances, np.float64).reshape(len(items), -1),
        components={name: tuple(score.components.get(name, np.nan) for score in scores) for name in names},
        errors=tuple(score.error for score in scores),
    )


def checked_group_scores(answer: object, num_texts: int, want_distances: bool) -> GroupScores:
    """`answer` if it is what a reward service owes for `num_texts` completions.

    Raises RewardError naming what came instead.
    """
    if not isinstance(answer, GroupScores):
        raise RewardError(f"the reward service answered a {type(answer).__name__}, not GroupScores")
    _check_array("rewards_G", answer.rewards_G, (num_texts,), np.float64)
    _check_array("classes_G", answer.classes_G, (num_texts,), np.int64)
    scored_G = ~np.isnan(answer.rewards_G)
    _check_range("rewards_G", answer.rewards_G[scored_G], 0, 1)
    _check_range("classes_G", answer.classes_G, WRONG_CLASS, np.iinfo(np.int64).max)
    lengths = {len(answer.errors), *(len(values) for values in answer.components.values())}
    if lengths != {num_texts}:
        raise RewardError(
            f"the reward service answered {sorted(lengths)} errors or components, not {num_texts}"
        )
    if want_distances:
        _check_distances(answer.distances_GG, num_texts)
    return answer


def _check_distances(distances_GG: np.ndarray | None, size: int) -> None:
    if distances_GG is None:
        raise RewardError("the reward service answered no distances although they were asked for")
    _check_array("distances_GG", distances_GG, (size, size), np.float64)
    _check_range("distances_GG", distances_GG, 0, 1)
    if not np.array_equal(distances_GG, distances_GG.T) or np.diag(distances_GG).any():
        raise RewardError("the reward service answered distances_GG, not symmetric with a zero diagonal")


def _check_array(name: str, value: object, shape: tuple[int, ...], dtype: type) -> None:
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
        came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise RewardError(f"the reward service answered {name} as {came}; expected {np.dtype(dtype)} {shape}")


def _check_range(name: str, values: np.ndarray, low: float, high: float) -> None:
    bad = values[~((values >= low) & (values <= high))]
    if bad.size:
        raise RewardError(f"the reward service answered {name} with {bad[0]}, outside [{low}, {high}]")
