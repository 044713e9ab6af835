"""Supervised training: which demonstrations a rank sees, and one optimiser step. No Ray, no checkpoints.

The step is defined by (seed, step) alone: however many ranks share the demonstrations, and in whatever
micro-batches, the gradient is that of the mean loss per response token over all of them. Used by SFT (LoRA,
data parallel) and by the pretraining of the embedded model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polyray.algorithms.supervised import masked_cross_entropy
from polyray.data.packing import SupervisedBatch, TokenRow, collate
from polyray.errors import ConfigError


def demonstration_batches(
    row_of: Callable[[int], TokenRow],
    *,
    step: int,
    rank: int,
    world_size: int,
    rows_per_step: int,
    micro_batch_rows: int,
    pad_id: int,
) -> tuple[list[SupervisedBatch], int]:
    """This rank's micro-batches of optimiser step `step`, and the response tokens of the step over all ranks.

    `row_of` gives row number i; step s takes rows s * rows_per_step and following, rank r every world_size-th
    of them. Every rank encodes all rows of the step, so the ranks need not talk to know the normaliser.
    """
    if rows_per_step < world_size:
        raise ConfigError(
            f"demonstrations_per_step={rows_per_step} is less than learner.num_workers={world_size}: "
            "a rank would have none; raise the one or lower the other"
        )
    rows = [row_of(step * rows_per_step + offset) for offset in range(rows_per_step)]
    share = rows[rank::world_size]
    batches = [
        collate(share[start : start + micro_batch_rows], pad_id)
        for start in range(0, len(share), micro_batch_rows)
    ]
    return batches, sum(row.num_targets for row in rows)


def supervised_step(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Sequence[SupervisedBatch],
    *,
    num_tokens_total: int,
    world_size: int = 1,
    max_grad_norm: float = 1.0,
) -> dict[str, float]:
    """One optimiser step on cross-entropy; `batches`, `num_tokens_total` as from `demonstration_batches`.

    Returns `loss` (the mean over ranks is nats per response token of the whole step), `grad_norm` before
    clipping, and the `lr` that was used.
    """
    optimizer.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    loss = torch.zeros((), device=device)
    for number, batch in enumerate(batches, start=1):
        with _gradients_stay_local(model, last=number == len(batches)):
            # DistributedDataParallel averages gradients over ranks: world_size undoes that.
            share = batch_loss_sum(model, batch, device) * (world_size / num_tokens_total)
            share.backward()
        loss += share.detach()
    grad_norm = nn.utils.clip_grad_norm_(
        [parameter for parameter in model.parameters() if parameter.requires_grad], max_grad_norm
    )
    lr = optimizer.param_groups[0]["lr"]
    optimizer.step()
    scheduler.step()
    return {"loss": float(loss), "grad_norm": float(grad_norm), "lr": float(lr)}


def batch_loss_sum(model: nn.Module, batch: SupervisedBatch, device: torch.device) -> torch.Tensor:
    """Summed cross-entropy of the response tokens in nats; no logits before the first response."""
    token_ids_BT = batch.token_ids_BT.to(device)
    first = batch.first_target
    kept = token_ids_BT.shape[1] - first + 1
    logits_BTV = model(input_ids=token_ids_BT, use_cache=False, logits_to_keep=kept).logits[:, :-1]
    loss_sum, _ = masked_cross_entropy(
        logits_BTV, token_ids_BT[:, first:], batch.response_mask_BT[:, first:].to(device)
    )
    return loss_sum


def _gradients_stay_local(model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
