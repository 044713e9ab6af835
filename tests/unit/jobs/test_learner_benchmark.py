"""The learner's benchmark: the plain implementation gives the numbers of polyray."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import packed_learner
from benchmarks.logprob_memory import gradient_difference, run_pass
from benchmarks.made_groups import drawn_lengths, scored_group
from benchmarks.padded import padded_logprobs, padded_rows
from polyray.errors import ConfigError
from polyray.models import logprobs
from polyray.models.logprobs import completion_logprobs
from tests.unit.tiny_policy import SHAPE, build_policy

TOKENS = ([4, 9, 2], [5], [7, 7, 8, 2])
PROMPT = np.array([1, 9, 4], np.int32)


def test_padded_logprobs_match_packed_logprobs() -> None:
    model = build_policy()
    group = scored_group(model, 3, PROMPT, TOKENS)
    rows, advantages_B = padded_rows([group])
    assert rows.input_ids_BL.tolist() == [[1, 9, 4, 4, 9, 2, 0], [1, 9, 4, 5, 0, 0, 0], [1, 9, 4, 7, 7, 8, 2]]
    assert advantages_B.tolist() == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    with torch.no_grad():
        actual, (expected, _) = padded_logprobs(model, rows), completion_logprobs(model, rows)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)
    for row, completion in zip(actual, group.group.completions, strict=True):
        assert row[: len(completion.token_ids)].tolist() == pytest.approx(
            completion.rollout_logprobs, abs=2e-6
        )
    short = rows.select(torch.tensor([False, True, False]))  # a micro batch is padded to its own longest
    torch.testing.assert_close(padded_logprobs(model, short), actual[1:2, :1], atol=2e-6, rtol=0)


def test_both_ways_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 4 * SHAPE["vocab_size"])
    plain, chunked = (run_pass(way, SHAPE, rows=2, completion_tokens=5) for way in ("plain", "chunked"))
    assert len(plain.gradients) == 14
    assert all(np.abs(gradient).max() > 0 for gradient in plain.gradients)
    assert gradient_difference(chunked.gradients, plain.gradients) < 1e-5


def test_gradients_are_compared_tensor_by_tensor() -> None:
    small, large = np.array([1e-3, -2e-3]), np.array([5.0, 1.0])
    assert gradient_difference([small, large + 0.05], [small, large]) == pytest.approx(0.01)
    assert gradient_difference([small + 1e-3, large], [small, large]) == pytest.approx(0.5)


def test_lengths_are_skewed_and_the_first_is_the_longest() -> None:
    lengths = drawn_lengths(np.random.default_rng(0), 2000, 100, 0.3)
    assert lengths[0] == max(lengths) == 100
    assert min(lengths) == 1
    assert sum(lengths) / len(lengths) == pytest.approx(29, abs=2)  # an exponential, cut


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert packed_learner.main(["--check", "--part", "speed", "--mean-share", "0.2"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["job"], checked["part"], checked["mean_share"]) == ("benchmarks learner", "speed", 0.2)
    for odd in (["--steps", "0"], ["--group-size", "1"], ["--mean-share", "1.5"]):
        with pytest.raises(ConfigError, match=" ".join(odd)):
            packed_learner.main(["--check", *odd])
