"""USQ@k against enumeration of all k-subsets, ties included."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from polyray.metrics import best_at_k, usq_at_k


def usq_by_enumeration(scores, qualities, k: int) -> float:
    values = []
    for subset in combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        values.append(np.mean([qualities[i] for i in subset if scores[i] == best]))
    return float(np.mean(values))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    "scores",
    [
        [0.3, 0.1, 0.9, 0.5, 0.2, 0.8, 0.4],
        [1, 0, 1, 0, 1, 1, 2],
        [0, 0, 0, 0, 0, 0, 0],
        [-np.inf, -np.inf, 3, np.inf, np.inf, 0, 0],
    ],
)
def test_usq_equals_enumeration(scores, k) -> None:
    qualities = [0.2, 0.9, 0.1, 1.0, 0.0, 0.7, 0.4]
    assert usq_at_k(scores, qualities, k) == pytest.approx(
        usq_by_enumeration(scores, qualities, k), abs=1e-14
    )


def test_oracle_constant_and_reversed_selector() -> None:
    qualities = np.array([0.2, 0.9, 0.1, 1.0, 0.9])
    assert usq_at_k(qualities, qualities, 3) == pytest.approx(best_at_k(qualities, 3), abs=1e-15)
    assert usq_at_k(np.zeros(5), qualities, 3) == pytest.approx(qualities.mean(), abs=1e-15)
    expected_worst = np.mean([min(subset) for subset in combinations(qualities, 3)])
    assert usq_at_k(-qualities, qualities, 3) == pytest.approx(expected_worst, abs=1e-14)


def test_a_selector_wrong_in_the_tail_gets_worse_with_k() -> None:
    scores, qualities = [5, 4, 3, 2, 1], [0.0, 1.0, 1.0, 1.0, 0.0]
    curve = [usq_at_k(scores, qualities, k) for k in (1, 2, 5)]
    assert curve == pytest.approx([0.6, 0.6, 0.0], abs=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: usq_at_k([1, 2], [0.5, 0.5], 3), "k=3 is larger than 2"),
        (
            lambda: usq_at_k([1, 2, 3], [0.5, 0.5], 1),
            "selector_scores_G has 3 entries but there are 2 samples",
        ),
        (lambda: usq_at_k([1, float("nan")], [0.5, 0.5], 1), r"selector_scores_G\[1\]=nan cannot be ranked"),
        (lambda: usq_at_k([1, 2], [0.5, float("nan")], 1), r"qualities_G\[1\]=nan"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
