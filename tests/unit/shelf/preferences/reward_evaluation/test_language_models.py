"""The n-gram model against the recursion written out; the causal model against a plain forward pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from polyray.shelf.preferences.reward_evaluation import language_models
from polyray.shelf.preferences.reward_evaluation.language_models import NgramModel, word_tokens


def test_tokens() -> None:
    assert word_tokens("It's OK, isn't it?!") == ["it's", "ok", ",", "isn't", "it", "?", "!"]


def test_probabilities_are_the_witten_bell_recursion() -> None:
    model = NgramModel(["a b a", "a c"], order=2)
    # tokens a b a </s> a c </s>: 7 of 4 kinds; after a: b, </s>, c; after <s>: a, a
    unigram_b = (1 + 4 * (1 / 5)) / (7 + 4)
    assert model.probability("b", []) == pytest.approx(unigram_b)
    assert model.probability("b", ["a"]) == pytest.approx((1 + 3 * unigram_b) / (3 + 3))
    unigram_a = (3 + 4 / 5) / 11
    assert model.probability("a", ["<s>"]) == pytest.approx((2 + 1 * unigram_a) / (2 + 1))
    assert model.probability("b", ["never seen"]) == pytest.approx(unigram_b)
    unseen = (0 + 4 / 5) / 11
    expected = (
        math.log((2 + unigram_a) / 3) + math.log((0 + 3 * unseen) / 6) + math.log((2 + 4 / 5) / 11)
    ) / 3
    assert model.mean_logprob("a zebra") == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_each_history_is_a_distribution(order: int) -> None:
    model = NgramModel(["the cat sat on the mat", "the cat ran", "a dog sat on the cat"], order)
    vocabulary = {"the", "cat", "sat", "on", "mat", "ran", "a", "dog", "</s>"}
    for history in (["<s>"] * 3, ["sat", "on", "the"], ["the", "cat"], ["new", "words"]):
        total = sum(model.probability(token, history) for token in vocabulary)
        assert total + model.probability("unknown", history) == pytest.approx(1.0)


def test_usual_texts_are_likelier_and_the_empty_text_has_a_probability() -> None:
    model = NgramModel(["the cat sat on the mat"] * 5 + ["the dog ran"], 3)
    assert model.mean_logprob("the cat sat") > model.mean_logprob("mat the on sat")
    assert -20 < model.mean_logprob("") < 0


def test_order_is_checked() -> None:
    with pytest.raises(ValueError, match="order=0"):
        NgramModel([], 0)


def test_a_causal_model_gives_the_mean_of_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch

    from polyray.config.reward_validation import CausalLmSpec
    from polyray.shelf.preferences.reward_evaluation.language_models import CausalLm
    from tests.unit.tiny_policy import build_base, save_base

    monkeypatch.setattr(language_models, "BATCH_ROWS", 2)
    directory = save_base(tmp_path / "model")
    scorer = CausalLm(CausalLmSpec(type="causal_lm", path=str(directory), max_prompt_tokens=3))
    prompts, completions = ["01|2", "7", "", "a1"], ["RRU", "UULLD", "R", ""]
    found = scorer.mean_logprobs(prompts, completions)
    base = build_base()
    for at in range(3):
        before = scorer._encode(prompts[at])[-3:] or [1]
        after = scorer._encode(completions[at])
        with torch.no_grad():
            logits = base(torch.tensor([[*before, *after]])).logits[0].log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(after) - 1)
        expected = np.mean([logits[place, token].item() for place, token in zip(places, after, strict=True)])
        assert found[at] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(found[3]), "no token, no score"
    assert len(scorer.version) == 64
