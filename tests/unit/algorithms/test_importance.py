"""Truncated weights, the sequence mask and the mismatch metrics on small numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from polyray.algorithms import (
    effective_sample_size,
    mismatch_sums,
    sequence_mask,
    truncated_token_weights,
)

NAN = float("nan")


def means(policy: torch.Tensor, rollout: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """The metrics that the learner makes of the sums."""
    sums = mismatch_sums(policy, rollout, mask)
    mean = {name: total / sums.num_tokens for name, total in sums.totals.items()}
    return {
        "kl_rollout": mean["kl_rollout"],
        "ess": effective_sample_size(mean["weights"], mean["weights_squared"]),
        "max_abs_difference": sums.largest_difference,
    }


def test_truncated_weights_are_capped_above_only_and_detached() -> None:
    rollout = torch.log(torch.tensor([0.5, 0.5, 0.1], dtype=torch.float64))
    policy = torch.log(torch.tensor([0.25, 0.6, 0.9], dtype=torch.float64)).requires_grad_()
    weights = truncated_token_weights(policy, rollout, cap=2.0)
    assert weights.tolist() == pytest.approx([0.5, 1.2, 2.0]) and not weights.requires_grad
    assert truncated_token_weights(torch.zeros(1), torch.tensor([-1e6]), cap=3.0).item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("log_ratio", "masked", "kept"),
    [
        ([0.4, 0.4, 9.0], [True, True, False], True),
        ([0.9, -0.9, 9.0], [True, True, False], True),
        ([-0.4, -0.8, 9.0], [True, True, False], False),
        ([0.5, 0.5, 9.0], [True, True, False], True),
        ([NAN, 0.0, 0.0], [True, True, False], False),
        ([0.0, NAN, NAN], [True, False, False], True),
        ([NAN, NAN, NAN], [False, False, False], True),
    ],
)
def test_sequence_mask_keeps_mean_log_ratios_within_the_band(log_ratio, masked, kept: bool) -> None:
    found = sequence_mask(torch.tensor([log_ratio]), torch.zeros(1, 3), torch.tensor([masked]), band=0.5)
    assert found.tolist() == [kept]


@pytest.mark.parametrize("weights", [[1.0, 3.0, 0.5], [1.0, 1.0, 1.0]])
def test_mismatch_metrics_equal_their_formulas(weights: list[float]) -> None:
    policy = torch.tensor([[math.log(w) for w in weights] + [5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    squares = sum(w * w for w in weights)
    assert means(policy, torch.zeros(1, 4, dtype=torch.float64), mask) == {
        "kl_rollout": pytest.approx(sum(w - 1 - math.log(w) for w in weights) / 3, abs=1e-14),
        "ess": pytest.approx(sum(weights) ** 2 / (3 * squares), abs=1e-12),
        "max_abs_difference": pytest.approx(max(abs(math.log(w)) for w in weights), abs=1e-14),
    }
    policy = torch.zeros(1, 8)
    policy[0, 3] = 800.0  # exp would overflow
    assert means(policy, torch.zeros(1, 8), torch.ones(1, 8).bool())["ess"] == pytest.approx(1 / 8)


def test_mismatch_sums_leave_out_tokens_without_a_finite_log_ratio() -> None:
    policy, mask = torch.zeros(1, 4), torch.ones(1, 4).bool()
    broken = mismatch_sums(policy, torch.tensor([[NAN, -math.inf, 0.1, -0.2]]), mask)
    assert broken == mismatch_sums(policy[:, 2:], torch.tensor([[0.1, -0.2]]), mask[:, 2:])
    assert broken.num_tokens == 2
    nothing = mismatch_sums(policy, policy, ~mask)
    assert (nothing.num_tokens, nothing.largest_difference, set(nothing.totals.values())) == (0, 0.0, {0.0})


def test_mismatch_sums_of_micro_batches_add_up() -> None:
    policy = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(7)[None] < torch.tensor([7, 2, 1, 5])[:, None]
    whole = mismatch_sums(policy, torch.zeros_like(policy), mask)
    parts = [mismatch_sums(policy[i : i + 2], torch.zeros(2, 7), mask[i : i + 2]) for i in (0, 2)]
    assert whole.num_tokens == sum(part.num_tokens for part in parts) == 15
    assert whole.largest_difference == max(part.largest_difference for part in parts)
    for name, total in whole.totals.items():
        assert total == pytest.approx(sum(part.totals[name] for part in parts), rel=1e-12), name
