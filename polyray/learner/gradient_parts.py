"""Gradients of the quality and the diversity part of an update, layer by layer, while training.

A completion's advantage is the sum of a quality and a diversity part (advantages.py), so the gradient of the
objective is the sum of two: sum_i q_i grad log pi(y_i) and sum_i d_i grad log pi(y_i), each over the denominator of
the loss. Taken at the policy before the update, without clipping, importance weights and the other terms of the loss;
with neither of them their sum is the gradient of the update. Costs about one more pass over the batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from polyray.algorithms import losses
from polyray.learner.batch import Row, RowBatch
from polyray.learner.fsdp_padding import dummy_output, in_lockstep
from polyray.learner.reduce import world_size
from polyray.models.logprobs import completion_logprobs
from polyray.models.sharding import is_sharded
from polyray.types import StepMetrics

PARTS = ("quality", "diversity")
OUTSIDE = "outside"
"""Parameters that belong to no layer."""
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def gradient_parts(
    model: Any,
    batches: Sequence[tuple[Sequence[Row], RowBatch]],
    denominator: float,
    normalisation: losses.Normalisation,
    temperature: float,
) -> StepMetrics:
    """Norms of both gradients and their cosine per layer, and over all of them, the same on every rank.

    Args:
        model: the gradients are those of its trainable parameters.
        batches: this rank's rows that are in the loss, each with its forward pass; none is fine.
        denominator: of the loss, over all ranks.
        normalisation: of the loss.
        temperature: of the distribution that was sampled from.

    Returns:
        `gradient/LAYER/quality_norm`, `.../diversity_norm` and `.../cosine`, LAYER a number or `all`; a cosine with
        nothing is null.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in named]
    totals = {part: [torch.zeros_like(parameter) for parameter in parameters] for part in PARTS}
    for rows_and_batch in in_lockstep(model, batches):
        if rows_and_batch is None:
            of_parts = [dummy_output(model)] * len(PARTS)
        else:
            of_parts = _losses(model, *rows_and_batch, denominator, normalisation, temperature)
        for part, loss in zip(PARTS, of_parts, strict=True):
            if loss is None:
                continue
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for total, gradient in zip(totals[part], found, strict=True):
                if gradient is not None:
                    total += gradient
    layers = [_layer_of(name) for name, _ in named]
    return _compared(layers, {part: _over_ranks(gradients) for part, gradients in totals.items()})


def _losses(
    model: Any,
    rows: Sequence[Row],
    batch: RowBatch,
    denominator: float,
    normalisation: losses.Normalisation,
    temperature: float,
) -> list[torch.Tensor | None]:
    """Loss of each part on a micro batch; None for a part without weight, unless the ranks share the base."""
    logprobs_BT, _ = completion_logprobs(model, batch.rows, temperature)
    found: list[torch.Tensor | None] = []
    for part in PARTS:
        weights = [getattr(row, f"{part}_part") for row in rows]
        weights_B = torch.tensor(weights, dtype=logprobs_BT.dtype, device=logprobs_BT.device)
        if any(weights) or is_sharded(model):
            loss_BT = -weights_B[:, None] * logprobs_BT
            found.append(losses.loss_numerator(loss_BT, batch.rows.mask_BT, normalisation) / denominator)
        else:
            found.append(None)
    return found


def _layer_of(name: str) -> str:
    found = _LAYER.search(name)
    return found[1] if found else OUTSIDE


def _over_ranks(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    if world_size() == 1:
        return gradients
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def _compared(layers: Sequence[str], gradients: Mapping[str, Sequence[torch.Tensor]]) -> StepMetrics:
    """Three products per layer, summed in float64, and what they say."""
    products: dict[str, list[float]] = {}
    for layer, quality, diversity in zip(layers, gradients["quality"], gradients["diversity"], strict=True):
        q, d = quality.double().reshape(-1), diversity.double().reshape(-1)
        found = (float(q @ q), float(d @ d), float(q @ d))
        for key in (layer, "all"):
            sums = products.setdefault(key, [0.0, 0.0, 0.0])
            for index, value in enumerate(found):
                sums[index] += value
    metrics: StepMetrics = {}
    for layer, (qq, dd, qd) in products.items():
        norms = (qq * dd) ** 0.5
        metrics[f"gradient/{layer}/quality_norm"] = qq**0.5
        metrics[f"gradient/{layer}/diversity_norm"] = dd**0.5
        metrics[f"gradient/{layer}/cosine"] = max(-1.0, min(1.0, qd / norms)) if norms > 0 else None
    return metrics
