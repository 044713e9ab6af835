"""Selection of the candidates shown to a person."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from polyray.errors import DataError
from polyray.evaluation.candidates import ChoiceRules, choose_candidates, mean_distance
from polyray.evaluation.records import SampleRecord

RULES = ChoiceRules(
    k=4, selector="logprob", diversity_weight=0.5, duplicate_distance=0.0, cluster_distance=0.5
)


def sample(at: int, text: str, logprob: float, reward: float = math.nan, class_id: int = -1) -> SampleRecord:
    return SampleRecord("request", text, at, reward=reward, class_id=class_id, num_tokens=1, logprob=logprob)


def rules(**changes: object) -> ChoiceRules:
    return replace(RULES, **changes)


def rewarded(*rewards: float) -> list[SampleRecord]:
    return [sample(at, f"text {at}", -1.0, reward) for at, reward in enumerate(rewards)]


def apart(*pairs: tuple[int, int, float], size: int) -> np.ndarray:
    """Everything at distance 1 but for `pairs`."""
    distances = 1.0 - np.eye(size)
    for first, second, distance in pairs:
        distances[first, second] = distances[second, first] = distance
    return distances


def test_equal_texts_are_shown_once_and_all_reported() -> None:
    samples = [sample(0, "a", -1.0), sample(1, "b", -0.5), sample(2, "a", -1.0), sample(3, "a", -1.0)]
    chosen = choose_candidates(samples, apart((0, 2, 0), (0, 3, 0), (2, 3, 0), size=4), RULES, False)
    assert chosen.shown == (0, 1)
    assert chosen.stands_for == {0: (0, 2, 3), 1: (1,)}
    assert chosen.selected == 1
    assert chosen.clusters == (0, 1)


def test_near_duplicates_join_the_first_near_text() -> None:
    samples = [sample(at, text, -1.0) for at, text in enumerate("abc")]
    distances = apart((0, 1, 0.1), (1, 2, 0.1), (0, 2, 0.2), size=3)
    chosen = choose_candidates(samples, distances, rules(duplicate_distance=0.15), False)
    # c is near to b, which is shown as a; it is not near to a itself.
    assert chosen.stands_for == {0: (0, 1), 2: (2,)}
    assert choose_candidates(samples, distances, RULES, False).shown == (0, 1, 2)


def test_shown_candidates_are_good_and_far_apart() -> None:
    samples, distances = rewarded(0.9, 0.88, 0.5, 0.1), apart((0, 1, 0.05), size=4)
    # .5 x .5 + .5 x 1 = .75 against .5 x .88 + .5 x .05 = .465
    assert choose_candidates(samples, distances, rules(k=2), False).shown == (0, 2)
    assert choose_candidates(samples, distances, rules(k=2, diversity_weight=0.0), False).shown == (0, 1)
    unscored = [sample(at, "abc"[at], logprob) for at, logprob in enumerate((-9.0, -1.0, -5.0))]
    chosen = choose_candidates(unscored, apart(size=3), rules(k=1), False)
    assert (chosen.shown, chosen.selected) == ((1,), 1), "likelihood ranks samples without scores"
    alone = choose_candidates(unscored[:1], np.zeros((1, 1)), RULES, False)
    assert (alone.shown, alone.clusters, alone.selected) == ((0,), (0,), 0)
    assert mean_distance(np.zeros((1, 1))) == 0.0
    assert mean_distance(apart((0, 1, 0.4), size=3)) == pytest.approx((0.4 + 1 + 1) / 3)


def test_diverse_selector_orders_by_marginal_relevance_and_picks_the_first() -> None:
    distances = apart((1, 2, 0.0), size=3)
    chosen = choose_candidates(rewarded(0.2, 0.8, 0.79), distances, rules(selector="diverse"), False)
    assert (chosen.shown, chosen.selected) == ((1, 0, 2), 1)


@pytest.mark.parametrize(("selector", "selected"), [("reward", 1), ("logprob", 0), ("first", 0)])
def test_selector_picks_among_shown_candidates(selector: str, selected: int) -> None:
    samples = [sample(0, "a", -1.0, reward=0.2), sample(1, "b", -2.0, reward=0.8)]
    assert choose_candidates(samples, apart(size=2), rules(selector=selector), False).selected == selected


def test_clusters_are_the_classes_of_a_verifier() -> None:
    samples = [sample(at, f"{at}", -1.0, 1.0, class_id) for at, class_id in enumerate((7, -1, 9, 7))]
    assert choose_candidates(samples, apart(size=4), RULES, True).clusters == (0, None, 1, 0)


def test_clusters_follow_distances_without_a_verifier() -> None:
    samples = [sample(at, f"{at}", -1.0) for at in range(4)]
    distances = apart((0, 2, 0.2), (1, 3, 0.5), size=4)
    # Exactly at the limit is apart; numbers follow the order in which they are shown.
    assert choose_candidates(samples, distances, RULES, False).clusters == (0, 1, 0, 2)
    assert choose_candidates(samples, distances, rules(cluster_distance=0.51), False).clusters == (0, 1, 0, 1)


def test_selector_without_scores_says_how_many_are_missing() -> None:
    samples = [sample(0, "a", -1.0, reward=0.2), sample(1, "b", -2.0)]
    with pytest.raises(DataError, match=r"selector='reward'.*\b1\b.*\b2\b"):
        choose_candidates(samples, apart(size=2), rules(selector="reward"), False)
