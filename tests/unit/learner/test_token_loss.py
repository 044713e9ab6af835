"""Every loss option against the same written out for one token at a time, in float64."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, nan
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.algorithm import GrpoSpec
from polyray.learner.batch import RowBatch
from polyray.learner.token_loss import token_loss
from polyray.models.logprobs import Rows

LENGTHS = [4, 3, 4, 2]
ADVANTAGES = [1.0, -0.5, 0.3, -1.2]
LOG_RATIOS = [[0.4, -0.3, 0.1, 0.0], [0.9, -0.9, 0.2], [0.02, -0.01, 1.8, -0.4], [-0.5, 0.45]]
"""Of the policy to the engine; the third row is cut or not by a band of 0.3."""
PROXIMAL_RATIOS = [[0.2, -0.1, 0.1, 0.05], [0.8, -0.85, 0.1], [0.0, 0.1, 1.7, -0.2], [-0.3, 0.2]]
"""Of the policy before the first update to the engine."""


def case() -> tuple[RowBatch, torch.Tensor]:
    """Padded float64 rows with those ratios, and the policy's log-probs."""
    width, rng = max(LENGTHS), np.random.default_rng(0)

    def padded(values: list[list[float]]) -> torch.Tensor:
        return torch.tensor([row + [0.0] * (width - len(row)) for row in values], dtype=torch.float64)

    rollout = padded([(-rng.random(n) * 3 - 0.1).tolist() for n in LENGTHS])
    rows = Rows(
        torch.zeros(len(LENGTHS), width + 1, dtype=torch.int64),
        torch.ones(len(LENGTHS), dtype=torch.int64),
        torch.tensor(LENGTHS),
    )
    batch = RowBatch(
        rows,
        rollout,
        torch.tensor(ADVANTAGES, dtype=torch.float64),
        torch.tensor([True, True, True, True]),
        rollout - 0.2 * padded([[1.0] * n for n in LENGTHS]),
        torch.ones(len(LENGTHS), dtype=torch.bool),
        rollout + padded(PROXIMAL_RATIOS),
    )
    return batch, (rollout + padded(LOG_RATIOS)).requires_grad_()


def literal(spec: GrpoSpec) -> tuple[list[list[float]], list[list[float]], list[list[bool]]]:
    """(loss, its gradient with respect to the log-prob, kept) per token; 0 and False where it left."""
    batch, _ = case()
    learner = spec.proximal == "learner"
    losses, slopes, kept = [], [], []
    for b, n in enumerate(LENGTHS):
        anchors = (PROXIMAL_RATIOS if learner else LOG_RATIOS)[b]
        ratios = [LOG_RATIOS[b][t] - PROXIMAL_RATIOS[b][t] if learner else LOG_RATIOS[b][t] for t in range(n)]
        inside = spec.sequence_mask_band is None or abs(sum(anchors) / n) <= spec.sequence_mask_band
        stays, weights = [], []
        for log_weight in anchors:
            w, rule = exp(log_weight), spec.importance_correction
            low = spec.importance_floor if rule == "two_sided" else 0.0
            stays.append(inside and (rule in ("none", "truncate") or low <= w <= spec.importance_cap))
            capped = {"none": 1.0, "truncate": min(w, spec.importance_cap)}.get(rule, w)
            if not learner:
                capped = capped / w if rule == "truncate" and spec.surrogate == "ppo" else 1.0
            weights.append(capped)
        row_loss, row_slope = [0.0] * n, [0.0] * n
        for t in range(n):
            if not stays[t]:
                continue
            value, slope = surrogate(
                spec, ADVANTAGES[b], ratios, stays, t, float(batch.rollout_logprobs_BT[b, t]), b
            )
            row_loss[t] += weights[t] * value
            for u, part in slope.items():
                row_slope[u] += weights[t] * part
        losses.append(row_loss)
        slopes.append(row_slope)
        kept.append(stays)
    return losses, slopes, kept


def surrogate(
    spec: GrpoSpec, a: float, ratios: list[float], stays: list[bool], t: int, rollout: float, b: int
) -> tuple[float, dict[int, float]]:
    """(loss, {position: slope}) of one token."""
    if spec.surrogate == "cispo":
        weight = min(exp(ratios[t]), spec.cispo_cap)
        return -weight * a * (rollout + LOG_RATIOS[b][t]), {t: -weight * a}
    if spec.surrogate == "sapo":
        tau = spec.sapo_temperature_positive if a > 0 else spec.sapo_temperature_negative
        r = exp(ratios[t])
        gate = 1 / (1 + exp(-tau * (r - 1)))
        return -(4 / tau) * gate * a, {t: -4 * gate * (1 - gate) * r * a}
    trained = [u for u in range(len(ratios)) if stays[u]]
    of = trained if spec.surrogate == "gspo" else [t]
    r = exp(sum(ratios[u] for u in of) / len(of))
    clipped = min(max(r, 1 - spec.clip_low), 1 + spec.clip_high)
    value, slope = -min(r * a, clipped * a), 0.0 if clipped * a < r * a else -r * a
    if spec.dual_clip is not None and a < 0 and value > -spec.dual_clip * a:
        value, slope = -spec.dual_clip * a, 0.0
    return value, {u: slope / len(of) for u in of}


SURROGATES: list[dict[str, Any]] = [
    {"surrogate": "ppo", "clip_high": 0.28},
    {"surrogate": "ppo", "dual_clip": 1.5},
    {"surrogate": "gspo", "clip_low": 0.03, "clip_high": 0.04},
    {"surrogate": "cispo", "cispo_cap": 1.3},
    {"surrogate": "sapo", "sapo_temperature_negative": 2.0},
]


@pytest.mark.parametrize("proximal", ["rollout", "learner"])
@pytest.mark.parametrize("correction", ["none", "truncate", "mask", "two_sided"])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s["surrogate"] + "+dual" * ("dual_clip" in s))
@pytest.mark.parametrize("band", [None, 0.3])
def test_loss_equals_the_formula_token_by_token(
    surrogate: dict[str, Any], correction: Any, proximal: Any, band: float | None
) -> None:
    spec = GrpoSpec(
        **surrogate,
        importance_correction=correction,
        importance_cap=1.6,
        importance_floor=0.7,
        proximal=proximal,
        sequence_mask_band=band,
    )
    batch, logprobs = case()
    result = token_loss(batch, logprobs, torch.zeros_like(logprobs), spec)
    expected, slopes, kept = literal(spec)
    torch.where(result.mask_BT, result.loss_BT, 0.0).sum().backward()
    for b, n in enumerate(LENGTHS):
        assert result.mask_BT[b].tolist() == kept[b] + [False] * (max(LENGTHS) - n)
        assert bool(result.kept_B[b]) == any(kept[b])
        for t in range(n):
            if kept[b][t]:
                assert float(result.loss_BT[b, t].detach()) == pytest.approx(expected[b][t], abs=1e-12)
            assert logprobs.grad is not None
            assert float(logprobs.grad[b, t]) == pytest.approx(slopes[b][t], abs=1e-12)
    if band is not None:
        assert not any(kept[2])
    if correction == "two_sided":
        assert sum(map(sum, kept)) < sum(LENGTHS) - LENGTHS[2] * (band is not None)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"), [("k1", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", None, None)]
)
def test_kl_in_the_loss_and_entropy(estimator: Any, value: float | None, slope: float | None) -> None:
    # The reference is 0.2 below the engine: log pi/ref = 0.5 where the policy is 0.3 above it.
    spec = GrpoSpec(
        kl_coefficient=2.0, kl_estimator=estimator, entropy_coefficient=0.5, sequence_mask_band=None
    )
    batch, _ = case()
    batch.advantages_B.zero_()
    logprobs = (batch.rollout_logprobs_BT + 0.3).requires_grad_()
    entropy = torch.full_like(logprobs, 0.7)
    loss = token_loss(batch, logprobs, entropy.detach(), spec).loss_BT
    if value is None or slope is None:
        value, slope = exp(-0.5) - 1 + 0.5, 1 - exp(-0.5)
    assert float(loss[0, 0].detach()) == pytest.approx(2 * value - 0.5 * 0.7, abs=1e-12)
    loss[0, 0].backward()
    assert logprobs.grad is not None and float(logprobs.grad[0, 0]) == pytest.approx(2 * slope, abs=1e-12)
    in_reward = GrpoSpec(kl_coefficient=2.0, kl_estimator="k1", kl_placement="reward")
    losses = [token_loss(*case(), entropy, spec).loss_BT for spec in (GrpoSpec(), in_reward)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("proximal", ["rollout", "learner"])
def test_chosen_tokens_are_taken_out_or_held_near_the_learners_start(proximal: Any) -> None:
    options: dict[str, Any] = {
        "sequence_mask_band": None,
        "importance_correction": "none",
        "proximal": proximal,
        "kl_cov_coefficient": 3.0,
    }
    batch, logprobs = case()
    plain = token_loss(batch, logprobs, logprobs, GrpoSpec(**options)).loss_BT
    chosen = torch.zeros_like(plain, dtype=torch.bool)
    chosen[1, 2] = chosen[3, 1] = True
    batch = replace(batch, chosen_BT=chosen)
    clipped = token_loss(batch, logprobs, logprobs, GrpoSpec(**options, covariance="clip_cov")).loss_BT
    assert torch.equal(clipped, torch.where(chosen, 0.0, plain))
    held = token_loss(batch, logprobs, logprobs, GrpoSpec(**options, covariance="kl_cov")).loss_BT
    added = (held - plain).detach()
    assert torch.equal(added != 0, chosen)
    # Log ratios to the learner's start, 0.2 - 0.1 and 0.45 - 0.2, whatever the surrogate is measured from.
    assert added[chosen].tolist() == [pytest.approx(3 * (0.1 - 0.005)), pytest.approx(3 * (0.25 - 0.005))]


@pytest.mark.parametrize("broken", [nan, -inf, inf])
@pytest.mark.parametrize("surrogate", ["ppo", "gspo", "cispo", "sapo"])
@pytest.mark.parametrize("band", [None, 0.5])
def test_broken_rollout_logprob_costs_its_sequence_alone(
    broken: float, surrogate: Any, band: float | None
) -> None:
    batch, logprobs = case()
    batch.rollout_logprobs_BT[1, 2] = broken
    batch = replace(batch, chosen_BT=batch.rows.mask_BT)
    spec = GrpoSpec(surrogate=surrogate, sequence_mask_band=band, covariance="kl_cov")
    result = token_loss(batch, logprobs, logprobs.detach(), spec)
    assert result.kept_B.tolist()[1] is False and not result.mask_BT[1].any()
    torch.where(result.mask_BT, result.loss_BT, 0.0).sum().backward()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()
    assert not logprobs.grad[1].any() and logprobs.grad[0].any()
