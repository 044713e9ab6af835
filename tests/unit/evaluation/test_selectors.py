from __future__ import annotations

import math
from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from polyray.config.evaluation import SelectorName
from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import NOISE_SCALE, SELECTORS, get_selector, refusals

SAMPLES = [
    SampleRecord("t", "a", 0, reward=0.2, num_tokens=5, logprob=-3.0),
    SampleRecord("t", "b", 1, reward=0.9, num_tokens=2, logprob=-4.0),
    SampleRecord("t", "c", 2, reward=0.1, num_tokens=9, logprob=-0.5),
]


def scores_of(name: str, samples: list[SampleRecord]) -> np.ndarray:
    scores = get_selector(name).scores
    assert scores is not None
    return scores(samples)


@pytest.mark.parametrize(("name", "picked"), [("reward", 1), ("logprob", 2), ("length", 2), ("first", 0)])
def test_selector_picks_the_largest_value(name: str, picked: int) -> None:
    assert int(np.argmax(scores_of(name, SAMPLES))) == picked
    assert set(SELECTORS) == set(get_args(SelectorName))
    with pytest.raises(DataError, match=r"sample 1 of t \(model\).*logprob"):
        scores_of("logprob", [SAMPLES[0], SampleRecord("t", "b", 1)])
    with pytest.raises(ConfigError, match=r"selector='best'.*reward, logprob"):
        get_selector("best")


def test_random_selector_is_uniform_and_depends_on_prompt_and_index_alone() -> None:
    scores = scores_of("random", SAMPLES)
    other_model = [SampleRecord("t", "x", index, model="other") for index in range(3)]
    other_prompt = [SampleRecord("u", "x", index) for index in range(3)]
    assert scores.tolist() == scores_of("random", other_model).tolist()
    assert not np.isin(scores, scores_of("random", other_prompt)).any()
    many = np.array([scores_of("random", [SampleRecord(str(i), "", 0)])[0] for i in range(2000)])
    assert abs(many.mean() - 0.5) < 0.02 and abs((many < 0.25).mean() - 0.25) < 0.03


def test_noisy_user_picks_the_better_of_two_at_the_rate_of_bradley_and_terry() -> None:
    pairs = [[SampleRecord(str(i), "", j, reward=float(j)) for j in (0, 1)] for i in range(4000)]
    picked = [np.argmax(scores_of("noisy_user", pair)) for pair in pairs]
    expected = 1 / (1 + math.exp(-1 / NOISE_SCALE))
    assert abs(np.mean(picked) - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_diverse_selector_picks_the_text_with_fewest_shared_words() -> None:
    texts = ["the cat sat", "the cat ran", "a dog barked", "the dog sat"]
    samples = [SampleRecord("t", text, index) for index, text in enumerate(texts)]
    pick = get_selector("diverse").pick
    assert pick is not None and pick(samples) == 2
    qualities = np.array([1.0, 0.5, 0.25, 0.0])
    usq = get_selector("diverse").usq(samples, qualities, (1, 2, 4))
    assert usq[1] == pytest.approx(qualities.mean())
    assert usq[4] == pytest.approx(0.25)


def test_diverse_selector_breaks_ties_uniformly_over_sets() -> None:
    """The two of a pair are equally different: neither place may be preferred."""
    pick = get_selector("diverse").pick
    assert pick is not None
    prompts = [[SampleRecord(str(prompt), text, at) for at, text in enumerate("ab")] for prompt in range(400)]
    words = [SampleRecord("t", f"word{index}", index) for index in range(30)]
    for pairs in (prompts, [list(pair) for pair in combinations(words, 2)]):
        picked = [pick(pair) for pair in pairs]
        assert abs(np.mean(picked) - 0.5) < 0.1  # 4 standard deviations
        assert picked == [pick(pair) for pair in pairs]


def test_refusals_name_models_that_were_trained_on_the_reward() -> None:
    trained = {"base": None, "a": "r", "b": "other"}
    found = refusals(["logprob", "reward"], "r", trained)
    assert list(found) == ["a"] and "(r)" in found["a"]["reward"]
    assert refusals(["logprob"], "r", trained) == refusals(["reward"], None, trained) == {}
