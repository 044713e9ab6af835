"""The n-gram model against the recursion written out; the causal model against a plain forward pass."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from polyray.config.reward_validation import CausalLmSpec
from polyray.shelf.preferences.reward_evaluation import language_models
from polyray.shelf.preferences.reward_evaluation.language_models import CausalLm, NgramModel, word_tokens
from tests.unit.tiny_policy import build_base, save_base


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


def test_causal_model_gives_the_mean_logprob_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_models, "BATCH_ROWS", 2)
    directory = save_base(tmp_path / "model")
    scorer = CausalLm(CausalLmSpec(type="causal_lm", path=str(directory), max_prompt_tokens=3))
    prompts, completions = ["01|2", "7", "", "a1"], ["RRU", "UULLD", "R", ""]
    found = scorer.mean_logprobs(prompts, completions)
    base = build_base()
    for at in range(3):
        before, after = scorer._encode(prompts[at])[-3:] or [1], scorer._encode(completions[at])
        with torch.no_grad():
            logits = base(torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
        expected = [logits[len(before) - 1 + place, token].item() for place, token in enumerate(after)]
        assert found[at] == pytest.approx(np.mean(expected), abs=1e-5)
    assert np.isnan(found[3]), "no token, no score"
    assert len(scorer.version) == 64
