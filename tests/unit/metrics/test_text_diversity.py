"""Word-level diversity: by hand, against sacrebleu's own loop, against random draws."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyray.metrics import (
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    self_bleu,
    vocabulary_richness,
)
from polyray.metrics.tokens import ngrams, words


def random_texts(seed: int, count: int, vocabulary: int = 12, longest: int = 30) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{word}" for word in rng.integers(0, vocabulary, rng.integers(1, longest + 1)))
        for _ in range(count)
    ]


def test_words_split_punctuation_and_keep_case() -> None:
    assert words("It's 3.50, ok? Ok! ") == ["It's", "3.50", ",", "ok", "?", "Ok", "!"]
    assert words(" \n ") == []
    assert list(ngrams(["a", "b", "c"], 2)) == [("a", "b"), ("b", "c")]
    assert list(ngrams(["a"], 2)) == []


def test_distinct_n_counts_ngrams_within_texts() -> None:
    texts = ["a b a", "a b c"]
    assert distinct_n(texts, 1) == pytest.approx(3 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)  # ab, ba, ab, bc: none reaches from text to text
    assert distinct_n(texts, 3) == 1.0
    assert math.isnan(distinct_n(texts, 4))
    assert distinct_n(["x x x x"], 1) == 0.25
    assert math.isnan(distinct_n(["", " "], 1))


def test_expectation_adjusted_distinct_equals_the_formula() -> None:
    texts = ["a b a c", "a d"]
    assert expectation_adjusted_distinct(texts, 50) == pytest.approx(4 / (50 * (1 - (49 / 50) ** 6)))
    assert expectation_adjusted_distinct(texts, 50, n=2) == pytest.approx(4 / (50 * (1 - (49 / 50) ** 4)))
    assert expectation_adjusted_distinct(["a a a"], 1) == 1.0
    assert math.isnan(expectation_adjusted_distinct(["a"], 50, n=2))
    # For a huge vocabulary the expectation is the number of tokens: what is left is distinct-1.
    assert expectation_adjusted_distinct(texts, 10**15) == pytest.approx(distinct_n(texts, 1), rel=1e-12)


def test_richness_of_few_tokens_is_exact_or_nan() -> None:
    found = vocabulary_richness(["a " * 21, "b " * 21])
    assert found.type_token_ratio == found.hdd == pytest.approx(2 / 42)  # all 42 are drawn
    assert math.isnan(vocabulary_richness(["a b"]).hdd)
    assert math.isnan(vocabulary_richness([""]).type_token_ratio)


def test_hdd_equals_the_expected_ratio_of_42_random_tokens() -> None:
    texts = random_texts(1, 8, vocabulary=40)
    tokens = np.array([word for text in texts for word in words(text)])
    rng = np.random.default_rng(2)
    ratios = [len(set(rng.choice(tokens, 42, replace=False))) / 42 for _ in range(2000)]
    error = float(np.std(ratios)) / math.sqrt(len(ratios))
    assert vocabulary_richness(texts).hdd == pytest.approx(np.mean(ratios), abs=4 * error)
    assert vocabulary_richness(texts[::-1]) == vocabulary_richness(texts)


def plain_self_bleu(texts: list[str], max_n: int = 4) -> float:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True, max_ngram_order=max_n)
    scores = [metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    return float(np.mean(scores)) / 100


@pytest.mark.parametrize(
    ("texts", "max_n"),
    [
        *((random_texts(seed, count), 4) for seed, count in enumerate([2, 3, 16])),
        (random_texts(10, 6), 2),
        (["The cat sat, on the mat.", "The cat sat on the mat!", "A dog; a cat 3.5"], 4),
        (["one two three four five"] * 3, 4),
    ],
)
def test_self_bleu_equals_sacrebleu(texts, max_n) -> None:
    assert self_bleu(texts, max_n) == pytest.approx(plain_self_bleu(texts, max_n), abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab .,", max_size=14), min_size=2, max_size=6))
def test_self_bleu_equals_sacrebleu_on_odd_texts(texts) -> None:
    assert self_bleu(texts) == pytest.approx(plain_self_bleu(texts), abs=1e-14)
    assert self_bleu(texts[::-1]) == pytest.approx(self_bleu(texts), abs=1e-14)


def test_compression_ratio_equals_gzip() -> None:
    texts = ["the same words again and again"] * 8
    raw = "\n".join(texts).encode()
    assert compression_ratio(texts) == len(raw) / len(gzip.compress(raw, 9, mtime=0))
    assert compression_ratio(texts) > 3 > compression_ratio(random_texts(4, 8, vocabulary=10**6))
    assert math.isnan(compression_ratio(["", ""]))
    assert compression_ratio(["half a character \ud800"]) > 0
