"""NoveltyBench's numbers against values worked out by hand and transcriptions of the definitions."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from polyray.metrics.novelty import (
    greedy_partition,
    rouge_1_f,
    unigram_equivalent,
)

WORDS = [f"word{number}" for number in range(15)]


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


def test_partition_equals_the_published_procedure() -> None:
    rng = random.Random(1)
    merged = 0
    for _ in range(200):
        texts = random_texts(rng, 8)
        classes = greedy_partition(texts, unigram_equivalent)
        assert classes == partition_by_marking(texts)
        merged += 1 < len(set(classes)) < 8
    assert merged > 100  # the rule is neither always nor never true on these texts


def test_partition_compares_first_members_only() -> None:
    """0 ~ 1 and 1 ~ 2 but not 0 ~ 2: the third text opens a class of its own."""
    close = {("a", "b"), ("b", "c")}
    assert greedy_partition(["a", "b", "c"], lambda first, text: (first, text) in close) == [0, 0, 1]
    assert greedy_partition(["b", "a", "c"], lambda x, y: (x, y) in close or (y, x) in close) == [0, 0, 0]


def test_rouge_1_equals_the_rouge_score_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"])
    rng = random.Random(2)
    texts = [*random_texts(rng, 40), "It's 3.5 km -- isn't it?", "Déjà vu, naïve", "...", "A_b a-b AB"]
    assert rouge_1_f("", "") == 0.0
    for a, b in combinations(texts, 2):
        assert rouge_1_f(a, b) == pytest.approx(scorer.score(a, b)["rouge1"].fmeasure, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("red blue", "blue green", True),  # 1 common of at most 2
        ("one two three", "three four five", False),  # 1 of 3
        ("a b c d e", "a b x y z", False),  # 2 of 5
        ("a b c d e", "a b c y z", True),  # 3 of 5
        ("a a a a", "a b c d", False),  # one different common word, 4 words
        ("Paris.", "Paris, of course", False),  # punctuation belongs to the words of the short rule
        ("al be ga de ep ze", "al be ga other words here", True),  # F = 0.5
        ("al be ga de ep ze eta", "al be ga other words here now", False),  # F = 3/7
        ("Wörter mit Umlauten äöü sind hier", "wörter MIT umlauten äöü sind hier", True),
    ],
)
def test_unigram_rule(a: str, b: str, expected: bool) -> None:
    assert unigram_equivalent(a, b) is expected
    assert unigram_equivalent(b, a) is expected


def test_unigram_rule_of_equal_texts_and_of_a_threshold() -> None:
    text = "これ は 六つ の 単語 です か"
    assert rouge_1_f(text, text) == 0.0
    assert unigram_equivalent(text, text)
    a, b = "a b c d e f", "a b c x y z"  # F = 0.5
    assert unigram_equivalent(a, b, threshold=0.49) and not unigram_equivalent(a, b, threshold=0.5)
