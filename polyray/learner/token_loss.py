"""From log-probs to the loss of every token: correction, surrogate, covariance, KL, entropy, as configured.

One function from tensors to tensors; docs/algorithms.md has the formulas. A rejected token or
sequence leaves the loss and its denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polyray.algorithms import exploration, importance, kl, losses
from polyray.config.loss import LossSpec
from polyray.learner.batch import RowBatch

KL_ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The loss of a micro batch, token by token.

    Example:
        TokenLoss(loss_BT=tensor([[-.5, 0.]]), mask_BT=tensor([[True, False]]), kept_B=tensor([True]),
                  clipped_BT=tensor([[False, False]]), anchor_BT=tensor([[-.7, 0.]]))
    """

    loss_BT: torch.Tensor
    """[B, T], differentiable; meaningful where mask_BT is True."""
    mask_BT: torch.Tensor
    """[B, T] bool: tokens in the loss and its denominator."""
    kept_B: torch.Tensor
    """[B] bool: sequences in the loss and its denominator."""
    clipped_BT: torch.Tensor
    """[B, T] bool: tokens with a gradient that a clip removed or capped."""
    anchor_BT: torch.Tensor
    """[B, T] the learner's log-probs that are compared with the engine's."""


@dataclass(frozen=True, slots=True)
class _Corrected:
    """Log-probs to measure from, and the part of a micro batch that stays in the loss."""

    proximal_BT: torch.Tensor
    """The learner's before the first update on the batch."""
    anchor_BT: torch.Tensor
    """The learner's that are compared with the engine's."""
    rollout_BT: torch.Tensor
    """The engine's; the anchor's where rejected."""
    weights_BT: torch.Tensor
    """Factor of each token's surrogate."""
    trained_BT: torch.Tensor
    """Tokens that stay."""


def tokens_in_loss(batch: RowBatch, logprobs_BT: torch.Tensor, spec: LossSpec) -> torch.Tensor:
    """[B, T] bool: tokens of a micro batch that no correction rejects under the learner's log-probs [B, T]."""
    return _correct(batch, logprobs_BT, spec).trained_BT


def token_loss(
    batch: RowBatch, logprobs_BT: torch.Tensor, entropy_BT: torch.Tensor, spec: LossSpec
) -> TokenLoss:
    """The loss of a micro batch under the learner's log-probs [B, T] and entropies [B, T]."""
    at = _correct(batch, logprobs_BT, spec)
    old_BT = at.proximal_BT if spec.proximal == "learner" else at.rollout_BT
    loss_BT, clipped_BT = _surrogate(logprobs_BT, old_BT, batch.advantages_B, at.trained_BT, spec)
    loss_BT = loss_BT * at.weights_BT
    if batch.chosen_BT is not None:
        loss_BT = _held_back(loss_BT, logprobs_BT, at.proximal_BT, batch.chosen_BT, spec)
    if spec.kl_coefficient > 0 and spec.kl_placement == "loss":
        estimator = KL_ESTIMATORS[spec.kl_estimator]
        loss_BT = loss_BT + spec.kl_coefficient * estimator(logprobs_BT, batch.reference_logprobs_BT)
    if spec.entropy_coefficient > 0:
        loss_BT = loss_BT - spec.entropy_coefficient * entropy_BT
    return TokenLoss(loss_BT, at.trained_BT, at.trained_BT.any(1), clipped_BT & at.trained_BT, at.anchor_BT)


def _correct(batch: RowBatch, logprobs_BT: torch.Tensor, spec: LossSpec) -> _Corrected:
    detached_BT, rollout_BT, mask_BT = logprobs_BT.detach(), batch.rollout_logprobs_BT, batch.rows.mask_BT
    proximal_BT = detached_BT if batch.proximal_logprobs_BT is None else batch.proximal_logprobs_BT
    anchor_BT = proximal_BT if spec.proximal == "learner" else detached_BT
    kept_B = _kept_sequences(anchor_BT, rollout_BT, mask_BT, spec) & batch.trained_B
    trained_BT = mask_BT & kept_B[:, None]
    # Rejected tokens may hold infinite or missing numbers; their gradient would be NaN even if masked.
    rollout_BT = torch.where(trained_BT, rollout_BT, anchor_BT)
    weights_BT, trained_BT = _corrected(anchor_BT, rollout_BT, trained_BT, spec)
    return _Corrected(proximal_BT, anchor_BT, rollout_BT, weights_BT, trained_BT)


def _kept_sequences(
    anchor_BT: torch.Tensor, rollout_BT: torch.Tensor, mask_BT: torch.Tensor, spec: LossSpec
) -> torch.Tensor:
    if spec.sequence_mask_band is not None:
        return importance.sequence_mask(anchor_BT, rollout_BT, mask_BT, spec.sequence_mask_band)
    return (torch.isfinite(rollout_BT) | ~mask_BT).all(1)


def _corrected(
    anchor_BT: torch.Tensor, rollout_BT: torch.Tensor, trained_BT: torch.Tensor, spec: LossSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """(factor of each token's surrogate, tokens that stay).

    Measured from the engine, the ratio of the surrogate contains the weight already. Clipping leaves it unbounded
    for a negative advantage, and truncation bounds it there; cispo, sapo and gspo bound themselves. Measured from
    the learner's own start, the weight is a factor of the surrogate.
    """
    ones_BT, inside = torch.ones_like(anchor_BT), spec.proximal == "rollout"
    if spec.importance_correction == "none":
        return ones_BT, trained_BT
    if spec.importance_correction == "truncate":
        weights_BT = importance.truncated_token_weights(anchor_BT, rollout_BT, spec.importance_cap)
        if not inside:
            return weights_BT, trained_BT
        ratio_BT = (anchor_BT - rollout_BT).exp()
        return (weights_BT / ratio_BT if spec.surrogate == "ppo" else ones_BT), trained_BT
    low = spec.importance_floor if spec.importance_correction == "two_sided" else 0.0
    weights_BT = importance.masked_token_weights(anchor_BT, rollout_BT, low, spec.importance_cap)
    return (ones_BT if inside else weights_BT), trained_BT & (weights_BT > 0)


def _surrogate(
    logprobs_BT: torch.Tensor,
    old_BT: torch.Tensor,
    advantages_B: torch.Tensor,
    trained_BT: torch.Tensor,
    spec: LossSpec,
) -> tuple[torch.Tensor, torch.Tensor]:
    if spec.surrogate == "cispo":
        return losses.cispo_loss(logprobs_BT, old_BT, advantages_B, cap=spec.cispo_cap)
    if spec.surrogate == "sapo":
        loss_BT = losses.soft_gated_loss(
            logprobs_BT,
            old_BT,
            advantages_B,
            temperature_positive=spec.sapo_temperature_positive,
            temperature_negative=spec.sapo_temperature_negative,
        )
        return loss_BT, torch.zeros_like(trained_BT)
    return losses.clipped_surrogate(
        logprobs_BT,
        old_BT,
        advantages_B,
        clip_low=spec.clip_low,
        clip_high=spec.clip_high,
        dual_clip=spec.dual_clip,
        sequence_mask=trained_BT if spec.surrogate == "gspo" else None,
    )


def _held_back(
    loss_BT: torch.Tensor,
    logprobs_BT: torch.Tensor,
    proximal_BT: torch.Tensor,
    chosen_BT: torch.Tensor,
    spec: LossSpec,
) -> torch.Tensor:
    """Clip-Cov takes the chosen tokens out; KL-Cov adds their distance to the policy before the first update.

    The engine's log-probs are no measure of that distance: their error would decide the sign of the gradient.
    """
    zeros_BT = torch.zeros_like(loss_BT)
    if spec.covariance == "clip_cov":
        return torch.where(chosen_BT, zeros_BT, loss_BT)
    penalty_BT = spec.kl_cov_coefficient * exploration.kl_cov_penalty(logprobs_BT, proximal_BT)
    return loss_BT + torch.where(chosen_BT, penalty_BT, zeros_BT)
