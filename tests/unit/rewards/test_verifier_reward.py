"""VerifierReward and the shape of groups, on a task whose answers can be read off."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


class LengthTask:
    """Correct is a completion that starts with the reference; its class is its length."""

    def reward(self, prompt: Prompt, completion: str) -> float:
        if prompt.reference is None:
            raise ValueError("no reference")
        return float(completion.startswith(prompt.reference))

    def completion_class(self, prompt: Prompt, completion: str) -> int:
        return len(completion) if self.reward(prompt, completion) else WRONG_CLASS

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        return [self.completion_class(prompt, completion) for completion in completions]

    def distance(self, prompt: Prompt, a: str, b: str) -> float:
        return min(1.0, abs(len(a) - len(b)) / prompt.metadata.get("scale", 4))


def test_scores_and_classes_of_items():
    items = [ScoreItem("p", "ab", reference="a"), ScoreItem("p", "b", reference="a")]
    assert VerifierReward(LengthTask()).score(items) == [Score(1.0, 2, {}), Score(0.0, WRONG_CLASS, {})]


def test_an_item_the_task_chokes_on_is_unscored_and_its_neighbour_is_not():
    broken, fine = VerifierReward(LengthTask()).score(
        [ScoreItem("p", "a"), ScoreItem("p", "a", reference="a")]
    )
    assert broken.score is None and broken.class_id == WRONG_CLASS
    assert re.search(r"^verifier .*: ValueError: no reference$", str(broken.error))
    assert fine.score == 1.0


def test_groups_are_scored_with_one_call_and_split_again():
    class Counting(VerifierReward):
        calls = 0

        def score(self, items):
            Counting.calls += 1
            return super().score(items)

    requests = [
        GroupToScore(Prompt("1", "p", reference="a"), ("ab", "abc", "x"), want_distances=True),
        GroupToScore(Prompt("2", "p", reference="x"), ("x",)),
    ]
    first, second = score_groups(Counting(LengthTask()), requests)
    assert Counting.calls == 1
    np.testing.assert_array_equal(first.rewards_G, [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(first.classes_G, [2, 3, -1])
    np.testing.assert_array_equal(first.distances_GG, [[0, 0.25, 0.25], [0.25, 0, 0.5], [0.25, 0.5, 0]])
    assert second.distances_GG is None
    np.testing.assert_array_equal(second.rewards_G, [1.0])


def test_class_distances_never_count_wrong_completions():
    reward = VerifierReward(LengthTask(), diversity=DiversitySpec())
    request = GroupToScore(Prompt("1", "p", reference="a"), ("ab", "ac", "abc", "x"), want_distances=True)
    (scores,) = score_groups(reward, [request])
    np.testing.assert_array_equal(
        scores.distances_GG, [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    )


class RankTask(LengthTask):
    """The class of a completion is its rank by length among those of the group: it depends on the others."""

    def partition(self, prompt: Prompt, completions: Sequence[str]) -> list[int]:
        lengths = sorted({len(completion) for completion in completions})
        return [lengths.index(len(completion)) for completion in completions]


def test_group_classes_replace_item_classes_and_wrong_stays_wrong():
    reward = VerifierReward(RankTask(), diversity=DiversitySpec())
    requests = [
        GroupToScore(Prompt("1", "p", reference="a"), ("abcd", "x", "ab", "ac"), want_distances=True),
        GroupToScore(Prompt("2", "p", reference="x"), ("xyz", "y")),
        GroupToScore(Prompt("3", "p", reference="x"), ("y",)),
    ]
    first, second, third = score_groups(reward, requests)
    np.testing.assert_array_equal(first.classes_G, [1, -1, 0, 0])
    np.testing.assert_array_equal(
        first.distances_GG, [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(second.classes_G, [0, -1])
    np.testing.assert_array_equal(third.classes_G, [-1])


@pytest.mark.parametrize(
    ("classes", "message"),
    [([0], "1 classes for 2 completions"), ([0, -2], "class -2"), (None, "has no len")],
)
def test_a_broken_partition_unscores_and_says_why(classes: Any, message: str):
    class Broken(LengthTask):
        def partition(self, prompt, completions):
            return classes

    (scores,) = score_groups(
        VerifierReward(Broken()), [GroupToScore(Prompt("1", "p", reference="a"), ("ab", "a"))]
    )
    assert np.isnan(scores.rewards_G[1]) and message in (scores.errors[1] or "")


def test_wire_items_get_classes_of_their_group():
    def item(completion: str, reference: str, group: str = DEFAULT_GROUP) -> WireItem:
        return WireItem(prompt="p", completion=completion, reference=reference, messages=None, group=group)

    request = ScoreRequest(
        items=(
            item("abc", "a", group="g"),
            item("ab", "a", group="g"),
            item("ab", "a"),
            item("xyzzy", "x", group="g"),  # another prompt under the same name: a group of its own
        )
    )
    reward, items = VerifierReward(RankTask()), [asked.as_item() for asked in request.items]
    answer = answer_scores(reward, request, items, reward.score(items))
    classes = [score.class_id for score in answer.scores]
    assert classes == [1, 0, len("ab"), 0]


def test_a_distance_out_of_range_unscores_its_group_alone():
    class Far(LengthTask):
        def distance(self, prompt, a, b):
            return 1.5

    requests = [
        GroupToScore(Prompt("1", "p", reference="a"), ("ab", "abc"), want_distances=True),
        GroupToScore(Prompt("2", "p", reference="a"), ("ab", "abc")),
    ]
    far, fine = score_groups(VerifierReward(Far()), requests)
    assert np.isnan(far.rewards_G).all()
    assert re.search(r"\b1\.5 .*\[0, 1\].*Far\.distance", far.errors[0] or "")
    np.testing.assert_array_equal(fine.rewards_G, [1.0, 1.0])


@pytest.mark.parametrize("value", [1.0000001, -0.1, float("nan"), float("inf")])
def test_a_score_out_of_range_is_unscored_never_clipped(value: float):
    score = checked_score(value, 3, {}, who="my reward")
    assert score.score is None and score.class_id == WRONG_CLASS
    assert re.search(rf"my reward .*{re.escape(str(value))}.*\[0, 1\]", str(score.error))


def test_classes_and_components_out_of_range_are_unscored():
    assert "class -2" in str(checked_score(1.0, -2, {}, "r").error)
    assert "class 9223372036854775808" in str(checked_score(1.0, 2**63, {}, "r").error)
    assert "component a=nan" in str(checked_score(1.0, 0, {"a": float("nan")}, "r").error)


def group_scores(**changes: Any) -> GroupScores:
    fields: dict[str, Any] = {
        "rewards_G": np.array([1.0, np.nan]),
        "classes_G": np.array([4, -1]),
        "distances_GG": np.array([[0.0, 0.5], [0.5, 0.0]]),
        "components": {"a": (1.0, 2.0)},
        "errors": (None, "why"),
    }
    return GroupScores(**(fields | changes))


def test_a_sound_answer_passes_the_check():
    answer = group_scores()
    assert checked_group_scores(answer, 2, want_distances=True) is answer


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
def test_garbage_is_named(changes: dict, message: str):
    with pytest.raises(RewardError, match=message):
        checked_group_scores(group_scores(**changes), 2, want_distances=True)


def test_an_answer_that_is_no_group_scores_is_named():
    with pytest.raises(RewardError, match=r"\bdict\b.*GroupScores"):
        checked_group_scores({}, 2, want_distances=False)
