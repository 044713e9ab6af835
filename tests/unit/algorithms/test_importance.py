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


def test_weights_are_truncated_above_only_and_detached() -> None:
    rollout = torch.log(torch.tensor([[0.5, 0.5, 0.1]], dtype=torch.float64))
    policy = torch.log(torch.tensor([[0.25, 0.6, 0.9]], dtype=torch.float64)).requires_grad_()
    weights = truncated_token_weights(policy, rollout, cap=2.0)
    assert weights.tolist() == [[pytest.approx(0.5), pytest.approx(1.2), pytest.approx(2.0)]]
    assert not weights.requires_grad


def test_a_weight_never_overflows() -> None:
    assert truncated_token_weights(torch.zeros(1), torch.tensor([-1e6]), cap=3.0).item() == pytest.approx(3.0)


def test_sequence_mask_uses_the_mean_of_signed_log_ratios() -> None:
    log_ratio = torch.tensor([[0.4, 0.4, 9.0], [0.9, -0.9, 9.0], [-0.4, -0.8, 9.0], [0.5, 0.5, 9.0]])
    mask = torch.tensor([[True, True, False]]).repeat(4, 1)
    kept = sequence_mask(log_ratio, torch.zeros(4, 3), mask, band=0.5)
    assert kept.tolist() == [True, True, False, True]


def test_sequence_mask_drops_nan_and_keeps_rows_without_tokens() -> None:
    log_ratio = torch.tensor([[NAN, 0.0], [0.0, NAN], [NAN, NAN]])
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    assert sequence_mask(log_ratio, torch.zeros(3, 2), mask, band=0.5).tolist() == [False, True, True]


def test_mismatch_metrics_by_hand() -> None:
    weights = [1.0, 3.0, 0.5]
    policy = torch.tensor([[math.log(w) for w in weights] + [5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    metrics = means(policy, torch.zeros(1, 4, dtype=torch.float64), mask)
    assert metrics == {
        "kl_rollout": pytest.approx(sum(w - 1 - math.log(w) for w in weights) / 3, abs=1e-14),
        "ess": pytest.approx(4.5**2 / (3 * (1 + 9 + 0.25)), abs=1e-14),
        "max_abs_difference": pytest.approx(math.log(3), abs=1e-14),
    }


def test_kl_rollout_estimates_kl_from_rollout_to_policy() -> None:
    # Sampling enumerated: outcome v appears in proportion to its rollout probability.
    rollout_counts, policy_p = torch.tensor([5, 3, 2]), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    rollout_p = rollout_counts.double() / 10
    tokens = torch.repeat_interleave(torch.arange(3), rollout_counts)[None]
    metrics = means(policy_p.log()[tokens], rollout_p.log()[tokens], torch.ones(1, 10).bool())
    exact = (rollout_p * (rollout_p / policy_p).log()).sum().item()
    other_way = (policy_p * (policy_p / rollout_p).log()).sum().item()
    assert metrics["kl_rollout"] == pytest.approx(exact, abs=1e-12)
    assert abs(exact - other_way) > 0.01


def test_equal_policies_have_no_mismatch_and_full_sample_size() -> None:
    logprobs = -torch.rand(4, 7, generator=torch.Generator().manual_seed(0))
    metrics = means(logprobs, logprobs, torch.ones(4, 7).bool())
    assert metrics == {"kl_rollout": 0.0, "ess": pytest.approx(1.0, abs=1e-12), "max_abs_difference": 0.0}
    assert metrics["ess"] <= 1.0


def test_one_dominating_token_leaves_one_sample() -> None:
    policy = torch.zeros(1, 8)
    policy[0, 3] = 800.0  # exp would overflow
    metrics = means(policy, torch.zeros(1, 8), torch.ones(1, 8).bool())
    assert metrics["ess"] == pytest.approx(1 / 8)
    assert metrics["max_abs_difference"] == 800.0


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


def test_bad_arguments_are_named() -> None:
    two, three, mask = torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2).bool()
    with pytest.raises(ValueError, match=r"policy_logprobs \(1, 2\).*rollout_logprobs \(1, 3\)"):
        truncated_token_weights(two, three, 2.0)
    with pytest.raises(ValueError, match="cap=0"):
        truncated_token_weights(two, two, 0)
    with pytest.raises(ValueError, match="band=-1"):
        sequence_mask(two, two, mask, -1)
    with pytest.raises(ValueError, match=r"mask \(1, 2\)"):
        sequence_mask(three, three, mask, 0.5)
    with pytest.raises(ValueError, match=r"policy_logprobs \(1, 2\).*rollout_logprobs \(1, 3\)"):
        mismatch_sums(two, three, mask)
