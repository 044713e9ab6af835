"""Distances of a group: by class, by the task, by meaning, by wording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyray.config.reward import DiversitySource, DiversitySpec
from polyray.metrics.tokens import words
from polyray.models.text_encoder import cosine_similarity
from polyray.rewards.base import Score, ScoreItem, unscored
from polyray.rewards.distances import group_distances, text_distances
from polyray.types import WRONG_CLASS
from tests.unit.rewards.fake_task import FakeTask

ITEMS = [ScoreItem("p", text) for text in ("a b c", "d e f", "a b d", "x y z", "a b c")]
SCORES = [Score(1.0, 7), Score(0.5, 8), Score(1.0, 9), Score(0.0, WRONG_CLASS), unscored("why")]


def matrix(source: DiversitySource) -> np.ndarray:
    return np.array(group_distances(FakeTask(), DiversitySpec(source=source, n=1), ITEMS, SCORES))


def test_distances_of_wrong_and_unscored_completions_are_zero() -> None:
    expected = np.zeros((5, 5))
    expected[:3, :3] = 1 - np.eye(3)
    np.testing.assert_array_equal(matrix("task_class"), expected)
    by_words = expected.copy()
    by_words[0, 2] = by_words[2, 0] = 1 - 2 / 4  # a, b of a, b, c, d
    by_words[1, 2] = by_words[2, 1] = 1 - 1 / 5
    np.testing.assert_allclose(matrix("ngram"), by_words)
    by_meaning = matrix("embedding")
    assert by_meaning[0, 1] == pytest.approx(1 - cosine_similarity("packaged", "a b c", "d e f"), abs=1e-6)
    assert not by_meaning[3:].any() and not by_meaning[:, 3:].any()
    by_task = np.zeros((5, 5))  # the task decides about wrong completions
    by_task[:4, :4] = 0.5 * (1 - np.eye(4))
    np.testing.assert_array_equal(matrix("task_distance"), by_task)


def brute_force_ngram(first: str, second: str, n: int) -> float:
    def grams(text: str) -> set[str]:
        tokens = words(text)
        if len(tokens) < n:
            return {"\0".join(tokens)}
        return {"\0".join(tokens[at : at + n]) for at in range(len(tokens) - n + 1)}

    return 1 - len(grams(first) & grams(second)) / len(grams(first) | grams(second))


@given(st.lists(st.text("ab .", max_size=12), max_size=6), st.integers(1, 4))
def test_ngram_distances_match_each_pair_and_form_a_kernel(texts: list[str], n: int) -> None:
    distances = text_distances("ngram", texts, n=n)
    assert distances.shape == (len(texts), len(texts))
    for row, first in enumerate(texts):
        for column, second in enumerate(texts):
            assert distances[row, column] == pytest.approx(brute_force_ngram(first, second, n))
    if texts:
        assert np.linalg.eigvalsh(1 - distances).min() > -1e-9


def test_embedding_distances_are_one_minus_cosine_within_zero_and_one() -> None:
    texts = ["A dog runs in the park.", "A dog is running in the park.", "Interest rates rose.", ""]
    texts.append(texts[0])
    distances = text_distances("embedding", texts)
    for row, first in enumerate(texts):
        for column, second in enumerate(texts):
            cosine = cosine_similarity("packaged", first, second)
            assert distances[row, column] == pytest.approx(min(1.0, max(0.0, 1 - cosine)), abs=1e-5)
    assert distances[0, 1] < 0.2 < 0.8 < distances[0, 2]
    np.testing.assert_array_equal(distances, distances.T)
    assert distances[0, 4] == 0 and not np.diag(distances).any()
    assert distances.min() >= 0 and distances.max() <= 1
    assert text_distances("embedding", []).shape == (0, 0)


def test_text_distances_invalid_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"source='task_class'.*embedding, ngram"):
        text_distances("task_class", ["a"])
    with pytest.raises(ValueError, match="n=0"):
        text_distances("ngram", ["a"], n=0)
    with pytest.raises(ValueError, match="one string"):
        text_distances("ngram", "abc")
