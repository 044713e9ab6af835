from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from polyray.config.evaluation import SelectorName
from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.selectors import SELECTORS, get_selector

SAMPLES = [
    SampleRecord("t", "a", 0, reward=0.2, num_tokens=5, logprob=-3.0),
    SampleRecord("t", "b", 1, reward=0.9, num_tokens=2, logprob=-4.0),
    SampleRecord("t", "c", 2, reward=0.1, num_tokens=9, logprob=-0.5),
]


@pytest.mark.parametrize(("name", "picked"), [("reward", 1), ("logprob", 2), ("length", 2), ("first", 0)])
def test_picks(name: str, picked: int) -> None:
    assert int(np.argmax(get_selector(name)(SAMPLES))) == picked


def test_random_depends_on_prompt_and_index_alone() -> None:
    scores = get_selector("random")(SAMPLES)
    other_model = [SampleRecord("t", "x", index, model="other") for index in range(3)]
    other_prompt = [SampleRecord("u", "x", index) for index in range(3)]
    assert scores.tolist() == get_selector("random")(other_model).tolist()
    assert not np.isin(scores, get_selector("random")(other_prompt)).any()
    assert ((scores >= 0) & (scores < 1)).all()


def test_random_is_uniform_over_many_prompts() -> None:
    scores = np.array([get_selector("random")([SampleRecord(str(i), "", 0)])[0] for i in range(2000)])
    assert abs(scores.mean() - 0.5) < 0.02 and abs((scores < 0.25).mean() - 0.25) < 0.03


def test_registry_is_what_the_configuration_allows() -> None:
    assert set(SELECTORS) == set(get_args(SelectorName))


def test_missing_logprob_names_the_sample() -> None:
    with pytest.raises(DataError, match=r"sample 1 of t \(model\) has no logprob"):
        get_selector("logprob")([SAMPLES[0], SampleRecord("t", "b", 1)])


def test_unknown_selector_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"selector='best' is none of reward, logprob"):
        get_selector("best")
