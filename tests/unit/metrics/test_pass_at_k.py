"""pass@k, best@k and distinct correct classes@k against enumeration of all k-subsets."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from polyray.metrics import best_at_k, distinct_correct_at_k, pass_at_k
from polyray.metrics.combinatorics import miss_probability


@pytest.mark.parametrize("num_samples", [1, 4, 7])
def test_pass_at_k_equals_enumeration(num_samples) -> None:
    for num_correct in range(num_samples + 1):
        for k in range(1, num_samples + 1):
            passed = [min(s) < num_correct for s in combinations(range(num_samples), k)]
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(np.mean(passed), abs=1e-15)


def human_eval_estimate(n: int, c: int, k: int) -> float:
    """The product form of the HumanEval paper."""
    return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@pytest.mark.parametrize(
    ("n", "c", "k"), [(200, 3, 1), (200, 3, 10), (200, 3, 100), (200, 150, 100), (10, 0, 5)]
)
def test_pass_at_k_equals_the_human_eval_form(n, c, k) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(human_eval_estimate(n, c, k), abs=1e-12)


def test_pass_at_k_of_arrays_equals_that_of_each_prompt() -> None:
    correct = np.random.default_rng(0).integers(0, 17, (40, 50))
    result = np.asarray(pass_at_k(16, correct, 4))
    assert result.shape == (40, 50)
    assert result[7, 9] == pass_at_k(16, int(correct[7, 9]), 4)
    np.testing.assert_allclose(result[3], [human_eval_estimate(16, c, 4) for c in correct[3]], atol=1e-14)
    assert list(np.asarray(pass_at_k([4, 8, 8], [1.0, 1.0, 8.0], 2))) == [0.5, 0.25, 1.0]


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_best_at_k_equals_enumeration(k) -> None:
    qualities = [0.3, -1.0, 2.5, 0.3, 0.9, 2.5]
    expected = np.mean([max(subset) for subset in combinations(qualities, k)])
    assert best_at_k(qualities, k) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_distinct_correct_equals_enumeration(k) -> None:
    classes, correct = [4, 4, 9, -1, 9, 7, 4], [1, 0, 1, 1, 1, 0, 1]
    found = [
        len({classes[i] for i in subset if correct[i] and classes[i] != -1})
        for subset in combinations(range(7), k)
    ]
    assert distinct_correct_at_k(classes, correct, k) == pytest.approx(np.mean(found), abs=1e-14)


def test_miss_probability_is_exact_where_binomials_overflow_floats() -> None:
    table = miss_probability(4096, 2048)
    assert table[0] == 1.0 and table[1] == 0.5 and table[2049] == 0.0
    assert table[40] == comb(4056, 2048) / comb(4096, 2048)
    assert miss_probability(3, 0).tolist() == [1.0, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 2.0
