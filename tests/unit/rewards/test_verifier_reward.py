"""VerifierReward, groups and their checks, on a task whose answers can be read off."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from polyray.config.reward import DiversitySpec
from polyray.errors import RewardError
from polyray.rewards.base import GroupScores, Score, ScoreItem, checked_score
from polyray.rewards.groups import GroupToScore, checked_group_scores, score_groups
from polyray.rewards.protocol import DEFAULT_GROUP, ScoreRequest, WireItem, answer_scores
from polyray.rewards.verifier import VerifierReward
from polyray.types import WRONG_CLASS, Prompt
from tests.unit.rewards.fake_task import FakeTask, ranks_by_length


class LengthTask(FakeTask):
    """Correct is a completion that starts with the reference; its class is its length."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        if prompt.reference is None:
            raise ValueError("no reference")
        return float(completion.startswith(prompt.reference))

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return len(completion) if self.reward(prompt, completion) else WRONG_CLASS

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return self._distance * abs(len(a) - len(b))


TASK = LengthTask(distance=0.25)
RANKED = LengthTask(partition=ranks_by_length)


def group(reference: str, *texts: str, distances: bool = False) -> GroupToScore:
    return GroupToScore(Prompt("1", "p", reference=reference), texts, want_distances=distances)


def test_verifier_item_that_fails_is_unscored_alone() -> None:
    items = [
        ScoreItem("p", "ab", reference="a"),
        ScoreItem("p", "a"),
        ScoreItem("p", "b", reference="a"),
    ]
    right, broken, wrong = VerifierReward(TASK).score(items)
    assert (right, wrong) == (Score(1.0, 2), Score(0.0, WRONG_CLASS))
    assert broken.score is None and broken.class_id == WRONG_CLASS
    assert re.search(r"^verifier .*: ValueError: no reference$", str(broken.error))


def test_groups_are_scored_with_one_call_and_split_again() -> None:
    calls: list[int] = []

    class Counting(VerifierReward):
        def score(self, items: Any) -> list[Score]:
            calls.append(len(items))
            return super().score(items)

    first, second = score_groups(
        Counting(TASK), [group("a", "ab", "abc", "x", distances=True), group("x", "x")]
    )
    assert calls == [4]
    np.testing.assert_array_equal(first.rewards_G, [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(first.classes_G, [2, 3, -1])
    np.testing.assert_array_equal(first.distances_GG, [[0, 0.25, 0.25], [0.25, 0, 0.5], [0.25, 0.5, 0]])
    assert second.distances_GG is None and second.rewards_G.tolist() == [1.0]


def test_group_classes_are_the_partition_and_wrong_stays_wrong() -> None:
    reward = VerifierReward(RANKED, diversity=DiversitySpec())
    requests = [
        group("a", "abcd", "x", "ab", "ac", distances=True),
        group("x", "xyz", "y"),
        group("x", "y"),
    ]
    first, second, third = score_groups(reward, requests)
    np.testing.assert_array_equal(first.classes_G, [1, -1, 0, 0])
    np.testing.assert_array_equal(
        first.distances_GG, [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    )
    assert second.classes_G.tolist() == [0, -1] and third.classes_G.tolist() == [-1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [([0], "1 classes for 2 completions"), ([0, -2], "class -2"), (None, "has no len")],
)
def test_group_with_a_broken_partition_is_unscored(classes: Any, message: str) -> None:
    task = LengthTask(partition=lambda completions: classes)
    (scores,) = score_groups(VerifierReward(task), [group("a", "ab", "a")])
    assert np.isnan(scores.rewards_G[1]) and message in (scores.errors[1] or "")


def test_group_with_a_distance_out_of_range_is_unscored_alone() -> None:
    requests = [group("a", "ab", "abc", distances=True), group("a", "ab", "abc")]
    far, fine = score_groups(VerifierReward(LengthTask(distance=1.5)), requests)
    assert np.isnan(far.rewards_G).all()
    assert re.search(r"\b1\.5 .*\[0, 1\].*LengthTask\.distance", far.errors[0] or "")
    np.testing.assert_array_equal(fine.rewards_G, [1.0, 1.0])


def test_wire_items_get_classes_of_their_group() -> None:
    def item(completion: str, reference: str, group: str = "g") -> WireItem:
        return WireItem(prompt="p", completion=completion, reference=reference, messages=None, group=group)

    # The last one is another prompt under the same name: a group of its own.
    wire = (item("abc", "a"), item("ab", "a"), item("ab", "a", DEFAULT_GROUP), item("xyzzy", "x"))
    request = ScoreRequest(items=wire)
    reward, items = VerifierReward(RANKED), [asked.as_item() for asked in wire]
    answer = answer_scores(reward, request, items, reward.score(items))
    assert [score.class_id for score in answer.scores] == [1, 0, len("ab"), 0]


@pytest.mark.parametrize(
    ("score", "class_id", "components", "message"),
    [
        (1.0000001, 3, {}, r"my reward .*1\.0000001.*\[0, 1\]"),
        (-0.1, 3, {}, r"-0\.1.*\[0, 1\]"),
        (float("nan"), 3, {}, "nan"),
        (float("inf"), 3, {}, "inf"),
        (1.0, -2, {}, "class -2"),
        (1.0, 2**63, {}, "class 9223372036854775808"),
        (1.0, 0, {"a": float("nan")}, "component a=nan"),
    ],
)
def test_score_out_of_range_is_unscored_never_clipped(
    score: float, class_id: int, components: dict[str, float], message: str
) -> None:
    checked = checked_score(score, class_id, components, "my reward")
    assert checked.score is None and checked.class_id == WRONG_CLASS
    assert re.search(message, str(checked.error))


def group_scores(**changes: Any) -> GroupScores:
    fields: dict[str, Any] = {
        "rewards_G": np.array([1.0, np.nan]),
        "classes_G": np.array([4, -1]),
        "distances_GG": np.array([[0.0, 0.5], [0.5, 0.0]]),
        "components": {"a": (1.0, 2.0)},
        "errors": (None, "why"),
    }
    return GroupScores(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards_G": np.array([1.0])}, r"rewards_G.*float64 \(1,\).*float64 \(2,\)"),
        ({"rewards_G": np.array([1, 0])}, "rewards_G.*int64"),
        ({"rewards_G": [1.0, 0.0]}, "rewards_G.*list"),
        ({"rewards_G": np.array([1.0, 1.5])}, r"rewards_G.*1.5.*\[0, 1\]"),
        ({"rewards_G": np.array([1.0, np.inf])}, "rewards_G.*inf"),
        ({"classes_G": np.array([4.0, -1.0])}, "classes_G.*float64"),
        ({"classes_G": np.array([4, -7])}, "classes_G.*-7"),
        ({"errors": (None,)}, r"\[1, 2\].*\b2\b"),
        ({"components": {"a": (1.0,)}}, r"\[1, 2\].*\b2\b"),
        ({"distances_GG": None}, "distances"),
        ({"distances_GG": np.array([[0.0, np.nan], [np.nan, 0.0]])}, "distances_GG.*nan"),
        ({"distances_GG": np.array([[0.0, 0.5], [0.4, 0.0]])}, "distances_GG.*symmetric"),
        ({"distances_GG": np.array([[0.1, 0.5], [0.5, 0.0]])}, "distances_GG.*diagonal"),
    ],
)
def test_group_scores_garbage_is_named(changes: dict[str, Any], message: str) -> None:
    assert checked_group_scores(sound := group_scores(), 2, want_distances=True) is sound
    with pytest.raises(RewardError, match=message):
        checked_group_scores(group_scores(**changes), 2, want_distances=True)
    with pytest.raises(RewardError, match=r"\bdict\b.*GroupScores"):
        checked_group_scores({}, 2, want_distances=False)
