"""The regularisers of BA-LoRA (arXiv 2408.04556): keep to the base, keep spread, concentrate the spectrum.

Added to cross-entropy in SFT; the paper's weights for generation are 0.025 (consistency), 0.005 (diversity) and 0.005
(spectrum), with temperature 2, top 20 and top 10. Two forms each: for generation, on logits [B, T, V], and for
classification, on one row per example (`spectral_loss(norm="nuclear")`).

How exact: the generation forms are, formula for formula, those of the authors' code (github.com/llm172/BA-LoRA, ICLR
2026); the classification forms those quoted of the same version (the first one had other formulas; the paper's
own text was not at hand). Readings of ours: a mask names the positions whose logits are trained (their code compares
unshifted labels); exact singular values unless a generator is given; classification forms on anything but class
logits, such as final hidden states. The schedules of the three weights are not here.

Not here: the weighted sum and the base model's forward pass (SFT), principal components as a start
(polyray.models.pissa). Suffix _B = sequences, _T = positions, _V = vocabulary, _M = rows, _D = columns.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional

OVERSAMPLING = 5
POWER_ITERATIONS = 2
"""Iterations of the randomised singular values, as in the authors' code."""


def consistency_loss(
    logits_BTV: torch.Tensor,
    base_logits_BTV: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    temperature: float = 2.0,
) -> tuple[torch.Tensor, int]:
    """Sum over masked positions of tau^2 KL(softmax(base / tau) || softmax(logits / tau)), and their number.

    The base is the teacher and held constant. tau^2 keeps gradients of the size of cross-entropy's. The paper's mean
    is the sum over the number, counted over the whole batch. Computed in float32 or better.

    Args:
        logits_BTV: [B, T, V], differentiable.
        base_logits_BTV: [B, T, V] of the frozen base on the same tokens.
        mask_BT: [B, T] bool, True = trained position.
        temperature: tau, above 0.

    Returns:
        The differentiable sum (0 for an empty mask) and the number of positions.

    Raises:
        ValueError: shapes that do not fit, temperature not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; the paper uses 2")
    if logits_BTV.shape != base_logits_BTV.shape:
        raise ValueError(
            f"logits_BTV {tuple(logits_BTV.shape)} and base_logits_BTV {tuple(base_logits_BTV.shape)} must have the "
            "same shape; run both models on the same tokens"
        )
    logits_MV, base_MV = _rows(logits_BTV, mask_BT), _rows(base_logits_BTV.detach(), mask_BT)
    logprobs_MV = functional.log_softmax(logits_MV / temperature, dim=-1)
    base_logprobs_MV = functional.log_softmax(base_MV / temperature, dim=-1)
    divergence = functional.kl_div(logprobs_MV, base_logprobs_MV, reduction="sum", log_target=True)
    return temperature**2 * divergence, len(logits_MV)


def top_entropy_loss(
    logits_BTV: torch.Tensor, mask_BT: torch.Tensor, *, top: int = 20
) -> tuple[torch.Tensor, int]:
    """Minus the sum over masked positions of the entropy among the `top` likeliest tokens, and their number.

    Probabilities are normalised within them: spread among plausible tokens, not over the whole vocabulary.

    Args:
        logits_BTV: [B, T, V], differentiable.
        mask_BT: [B, T] bool, True = trained position.
        top: how many tokens count, at least 2; all of them where V is smaller.

    Returns:
        The differentiable sum (0 for an empty mask) and the number of positions.

    Raises:
        ValueError: shapes that do not fit, top below 2.
    """
    if top < 2:
        raise ValueError(f"top={top} must be at least 2: one token has no entropy; the paper uses 20")
    logits_MV = _rows(logits_BTV, mask_BT)
    chosen = logits_MV.topk(min(top, logits_MV.shape[-1]), dim=-1).values
    logprobs = functional.log_softmax(chosen, dim=-1)
    return (logprobs.exp() * logprobs).sum(), len(logits_MV)


def spectral_loss(
    logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    top: int = 10,
    norm: Literal["frobenius", "nuclear"] = "frobenius",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """-(sum of the `top` largest singular values of the rows) / norm of all: energy into few directions.

    norm: frobenius is the paper's for generation, nuclear (the sum of all singular values) for classification. A
    property of the whole matrix: micro batches do not add up to it. Exact singular values cost about min(M, D)^2
    max(M, D); with a `generator` those of the paper's randomised decomposition, whose subspace is held constant.

    Args:
        logits: [..., D], differentiable.
        mask: [...] bool, which rows count; None: all.
        top: how many singular values, at least 1.
        norm: as above; nuclear needs exact values.
        generator: draws the random directions, on the device of `logits`.

    Returns:
        A scalar in [-sqrt(top), 0] or, for nuclear, [-1, 0]; 0 where all rows are 0 or there are none.

    Raises:
        ValueError: shapes that do not fit, top below 1, unknown norm, a generator with norm="nuclear".
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1; the paper uses 10")
    if norm not in ("frobenius", "nuclear"):
        raise ValueError(f"norm={norm!r} must be 'frobenius' or 'nuclear'")
    if norm == "nuclear" and generator is not None:
        raise ValueError("norm='nuclear' sums all singular values; leave out the generator")
    rows_MD = _rows(logits, torch.ones(logits.shape[:-1], dtype=torch.bool) if mask is None else mask)
    if not bool(rows_MD.any()):
        return rows_MD.sum()
    num_drawn = top + OVERSAMPLING
    matrix = rows_MD
    if generator is not None and num_drawn < min(rows_MD.shape):
        matrix = _leading_subspace(rows_MD.detach(), num_drawn, generator).T @ rows_MD
    values = torch.linalg.svdvals(matrix)
    scale = values.sum() if norm == "nuclear" else torch.linalg.matrix_norm(rows_MD)
    return -values[:top].sum() / scale


def _leading_subspace(rows_MD: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """[M, size] orthonormal columns that nearly span the leading left singular vectors (arXiv 0909.4061)."""
    drawn = torch.randn(
        rows_MD.shape[1], size, generator=generator, dtype=rows_MD.dtype, device=rows_MD.device
    )
    basis = torch.linalg.qr(rows_MD @ drawn).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(rows_MD @ torch.linalg.qr(rows_MD.T @ basis).Q).Q
    return basis


def _rows(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[M, D] in float32 or better; ValueError where the mask does not fit."""
    if logits.shape[:-1] != mask.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and mask {tuple(mask.shape)} must agree but for the last dimension"
        )
    return _wide(logits[mask.to(device=logits.device, dtype=torch.bool)])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
