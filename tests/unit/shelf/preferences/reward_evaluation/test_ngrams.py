"""The n-gram model against the recursion written out."""

from __future__ import annotations

import math

import pytest

from polyray.shelf.preferences.reward_evaluation.ngrams import NgramModel, word_tokens


def test_word_tokens_are_lower_case_words_and_marks() -> None:
    assert word_tokens("It's OK, isn't it?!") == ["it's", "ok", ",", "isn't", "it", "?", "!"]


def test_ngram_probabilities_match_the_witten_bell_recursion() -> None:
    model = NgramModel(["a b a", "a c"], order=2)
    # tokens a b a </s> a c </s>: 7 of 4 kinds; after a: b, </s>, c; after <s>: a, a
    unigram_b, unigram_a, unseen = (1 + 4 / 5) / 11, (3 + 4 / 5) / 11, (4 / 5) / 11
    for token, history, expected in (
        ("b", [], unigram_b),
        ("b", ["a"], (1 + 3 * unigram_b) / 6),
        ("a", ["<s>"], (2 + unigram_a) / 3),
        ("b", ["never seen"], unigram_b),
    ):
        assert model.probability(token, history) == pytest.approx(expected)
    terms = ((2 + unigram_a) / 3, 3 * unseen / 6, (2 + 4 / 5) / 11)
    assert model.mean_logprob("a zebra") == pytest.approx(sum(map(math.log, terms)) / 3)
    assert -20 < model.mean_logprob("") < 0
    with pytest.raises(ValueError, match="order=0"):
        NgramModel([], 0)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ngram_probabilities_of_each_history_sum_to_one(order: int) -> None:
    model = NgramModel(["the cat sat on the mat", "the cat ran", "a dog sat on the cat"], order)
    vocabulary = {"the", "cat", "sat", "on", "mat", "ran", "a", "dog", "</s>", "unknown"}
    for history in (["<s>"] * 3, ["sat", "on", "the"], ["the", "cat"], ["new", "words"]):
        assert sum(model.probability(token, history) for token in vocabulary) == pytest.approx(1.0)
