"""Supervised training: the demonstrations of a rank, and one optimiser step. No Ray, no checkpoints.

(seed, step) alone defines the step. However the ranks share the demonstrations, and with any micro-batches,
packed or not, the gradient is that of the mean loss per trained token over all of them. Used by SFT (LoRA, data
parallel) and by the pretraining of the embedded model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polyray.algorithms.supervised import masked_cross_entropy
from polyray.data.packing import SupervisedBatch, collate, collate_packed, pack
from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError
from polyray.learner.fsdp_padding import in_lockstep
from polyray.learner.reduce import sum_gradients
from polyray.models.packing import isolated_rows
from polyray.models.sharding import is_sharded

TokenLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, int]]
"""(logits [B, T, V], targets [B, T], mask [B, T]) -> (sum over the masked positions, their number)."""


BatchLoss = Callable[[nn.Module, SupervisedBatch], torch.Tensor]
"""(model, micro batch) -> differentiable sum over the trained tokens."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """Work of one rank in one step, e.g. StepRows(batches=[collate(...)], num_tokens_total=640, token_share=0.93,
    num_truncated=0).
    """

    batches: list[SupervisedBatch]
    num_tokens_total: int
    """Trained tokens over all ranks."""
    token_share: float
    """Real tokens / slots of this rank's batches: the rest is padding."""
    num_truncated: int
    """Rows over all ranks with a cut response."""


def demonstration_batches(
    row_of: Callable[[int], TokenRow],
    *,
    step: int,
    rank: int,
    world_size: int,
    rows_per_step: int,
    micro_batch_rows: int | None,
    pad_id: int,
    pack_width: int | None = None,
) -> StepRows:
    """This rank's micro-batches of optimiser step `step`.

    `row_of` gives row number i; step s takes rows s * rows_per_step and following, rank r every world_size-th
    of them. Every rank encodes all rows of the step, so the ranks need not talk to know the normaliser. With
    `pack_width` a sequence holds several rows of the step: the gradient is the same.
    """
    if rows_per_step < world_size:
        raise ConfigError(
            f"demonstrations_per_step={rows_per_step} is less than learner.num_workers={world_size}: "
            "a rank would have none; raise the one or lower the other"
        )
    rows = [row_of(step * rows_per_step + offset) for offset in range(rows_per_step)]
    batches = row_batches(rows[rank::world_size], micro_batch_rows, pad_id, pack_width)
    slots = sum(batch.token_ids_BT.numel() for batch in batches)
    return StepRows(
        batches,
        sum(row.num_targets for row in rows),
        sum(len(row.token_ids) for row in rows[rank::world_size]) / slots,
        sum(row.truncated for row in rows),
    )


def row_batches(
    rows: Sequence[TokenRow], micro_batch_rows: int | None, pad_id: int, pack_width: int | None
) -> list[SupervisedBatch]:
    """Batches of at most `micro_batch_rows` sequences; None: one batch."""
    size = micro_batch_rows or max(1, len(rows))
    if pack_width is None:
        return [collate(rows[start : start + size], pad_id) for start in range(0, len(rows), size)]
    sequences = pack(rows, pack_width)
    return [
        collate_packed(sequences[start : start + size], pad_id) for start in range(0, len(sequences), size)
    ]


def supervised_step(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Sequence[SupervisedBatch],
    *,
    num_tokens_total: int,
    world_size: int = 1,
    max_grad_norm: float = 1.0,
    batch_loss: BatchLoss | None = None,
) -> dict[str, float]:
    """One optimiser step, by default on cross-entropy; `batches`, `num_tokens_total` as from `demonstration_batches`.

    Returns `loss` (the mean over ranks is that per trained token of the whole step; nats for cross-entropy),
    `grad_norm` before clipping, and the `lr` that was used.
    """
    batch_loss = batch_loss or batch_loss_sum
    optimizer.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    loss = torch.zeros((), device=device)
    for number, batch in enumerate(in_lockstep(model, batches), start=1):
        with _gradients_stay_local(model, last=number == len(batches)):
            # Gradients are averaged over ranks: world_size undoes that. A pass that only other ranks need adds zeros.
            weight = world_size / num_tokens_total if batch is not None else 0.0
            share = batch_loss(model, batch or batches[0]) * weight
            share.backward()
        loss += share.detach()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if is_sharded(model):  # else DistributedDataParallel has done it
        sum_gradients(parameters, world_size)
    grad_norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    lr = optimizer.param_groups[0]["lr"]
    optimizer.step()
    scheduler.step()
    return {"loss": float(loss), "grad_norm": float(grad_norm), "lr": float(lr)}


def batch_loss_sum(
    model: nn.Module, batch: SupervisedBatch, token_loss: TokenLoss = masked_cross_entropy
) -> torch.Tensor:
    """Summed loss of the trained tokens."""
    loss_sum, _ = token_loss(*batch_logits(model, batch))
    return loss_sum


def batch_logits(model: nn.Module, batch: SupervisedBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits [B, T, V], targets [B, T], mask [B, T] of trained tokens); no logits before the first of them."""
    device = next(model.parameters()).device
    token_ids_BT = batch.token_ids_BT.to(device)
    arguments = {"input_ids": token_ids_BT}
    if batch.segments_BT is not None and batch.position_ids_BT is not None:
        arguments = isolated_rows(
            token_ids_BT, batch.segments_BT.to(device), batch.position_ids_BT.to(device)
        )
    first = batch.first_target
    kept = token_ids_BT.shape[1] - first + 1
    logits_BTV = model(**arguments, use_cache=False, logits_to_keep=kept).logits[:, :-1]
    return logits_BTV, token_ids_BT[:, first:], batch.response_mask_BT[:, first:].to(device)


def _gradients_stay_local(model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
