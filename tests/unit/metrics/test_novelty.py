"""NoveltyBench's numbers against values worked out by hand and transcriptions of the definitions."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from polyray.metrics.novelty import (
    greedy_partition,
    rouge_1_f,
    unigram_equivalent,
    utility_k,
)

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "log",
    "old",
    "new",
    "blue",
    "red",
    "slowly",
]


def random_texts(rng: random.Random, number: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(number)]


def partition_by_marking(texts: list[str]) -> list[int]:
    """The published order of work: an unmarked text opens a class and marks all later ones that equal it."""
    partition = [-1] * len(texts)
    opened = 0
    for i in range(len(texts)):
        if partition[i] == -1:
            partition[i] = opened
            for j in range(i + 1, len(texts)):
                if partition[j] == -1 and unigram_equivalent(texts[i], texts[j]):
                    partition[j] = opened
            opened += 1
    return partition


def test_partition_is_that_of_the_published_order_of_work() -> None:
    rng = random.Random(1)
    merged = 0
    for _ in range(200):
        texts = random_texts(rng, 8)
        classes = greedy_partition(texts, unigram_equivalent)
        assert classes == partition_by_marking(texts)
        merged += 1 < len(set(classes)) < 8
    assert merged > 100  # the rule is neither always nor never true on these texts


def test_only_first_members_are_compared() -> None:
    """0 ~ 1 and 1 ~ 2 but not 0 ~ 2: the third text opens a class of its own."""
    close = {("a", "b"), ("b", "c")}
    assert greedy_partition(["a", "b", "c"], lambda first, text: (first, text) in close) == [0, 0, 1]
    assert greedy_partition(["b", "a", "c"], lambda x, y: (x, y) in close or (y, x) in close) == [0, 0, 0]


def test_no_texts_have_no_classes() -> None:
    assert greedy_partition([], unigram_equivalent) == []


def test_rouge_1_by_hand() -> None:
    # 4 of 5 and 4 of 6 words in common, with one "the" of two: P = 4/6, R = 4/5, F = 8/11.
    assert rouge_1_f("The cat sat: the mat", "the cat sat on a mat") == pytest.approx(8 / 11)
    assert rouge_1_f("", "") == 0.0


def test_rouge_1_is_that_of_the_rouge_score_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"])
    rng = random.Random(2)
    texts = [*random_texts(rng, 40), "It's 3.5 km -- isn't it?", "Déjà vu, naïve", "...", "A_b a-b AB"]
    for a, b in combinations(texts, 2):
        assert rouge_1_f(a, b) == pytest.approx(scorer.score(a, b)["rouge1"].fmeasure, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("Paris", "paris", True),
        ("Paris", "London", False),
        ("red blue", "blue green", True),  # 1 common of at most 2
        ("one two three", "three four five", False),  # 1 of 3
        ("a b c d e", "a b x y z", False),  # 2 of 5
        ("a b c d e", "a b c y z", True),  # 3 of 5
        ("a a a a", "a b c d", False),  # one different common word, 4 words
        ("Paris.", "Paris, of course", False),  # punctuation belongs to the words of the short rule
        ("alpha beta gamma delta epsilon zeta", "alpha beta gamma other words here", True),  # F = 0.5
        (
            "alpha beta gamma delta epsilon zeta eta",
            "alpha beta gamma other words here now",
            False,
        ),  # F = 3/7
        ("Wörter mit Umlauten äöü sind hier", "wörter MIT umlauten äöü sind hier", True),
    ],
)
def test_unigram_rule(a: str, b: str, expected: bool) -> None:
    assert unigram_equivalent(a, b) is expected
    assert unigram_equivalent(b, a) is expected


def test_equal_texts_are_equivalent_where_rouge_sees_no_word() -> None:
    text = "これ は 六つ の 単語 です か"
    assert rouge_1_f(text, text) == 0.0
    assert unigram_equivalent(text, text)


def test_threshold_is_strict() -> None:
    a, b = "a b c d e f", "a b c x y z"
    assert unigram_equivalent(a, b, threshold=0.49)
    assert not unigram_equivalent(a, b, threshold=0.5)


def test_utility_by_hand() -> None:
    # Weights 1, .8, .64, .512 sum to 2.952; the third answer repeats class 0: 6 + .8 * 10 + .512 * 3 = 15.536.
    assert utility_k([0, 1, 0, 2], [6, 10, 9, 3]) == pytest.approx(15.536 / 2.952, abs=1e-12)
    assert utility_k([0, 1, 0, 2], [6, 10, 9, 3], k=2) == pytest.approx(14 / 1.8, abs=1e-12)
    assert utility_k([0, -1, -1], [6, 10, 10], 0.5) == pytest.approx(6 / 1.75, abs=1e-12)


def test_utility_is_the_published_formula() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        size = int(rng.integers(1, 12))
        classes, scores = rng.integers(0, 4, size), rng.integers(1, 11, size)
        p = float(rng.uniform(0.05, 0.95))
        total = sum(p**i * scores[i] for i in range(size) if all(classes[j] != classes[i] for j in range(i)))
        expected = (1 - p) / (1 - p**size) * total
        assert utility_k(classes, scores, p) == pytest.approx(expected, rel=1e-12)


def test_patience_ends() -> None:
    assert utility_k([0, 1, 1, 2], [4, 8, 8, 2], 1.0) == pytest.approx(14 / 4)
    assert utility_k([0, 1], [4, 8], 0.0) == 4.0


def test_all_different_and_equally_good_is_worth_the_score() -> None:
    assert utility_k(range(10), [7] * 10) == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [1.0]), "sample"),
        (([0, 1], [1.0, float("nan")]), "nan"),
        (([0, 1], [1.0, 2.0], 1.5), "patience=1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        utility_k(*arguments)


def test_k_beyond_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="k=3"):
        utility_k([0, 1], [1, 1], k=3)
