"""Equal numbers of forward and backward passes on all ranks that share a base (polyray/models/sharding.py).

Ranks have different numbers of micro batches, down to none. A rank with fewer makes passes that add nothing:

    for batch in in_lockstep(model, batches):
        dummy_pass(model) if batch is None else train_on(batch)

If every rank has the whole base, the batches come unchanged and no rank waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from peft import PeftModel

from polyray.learner.reduce import world_size
from polyray.models.sharding import is_sharded

Batch = TypeVar("Batch")


def in_lockstep(model: torch.nn.Module, batches: Sequence[Batch]) -> Iterator[Batch | None]:
    """The batches, and behind them None for each pass that another rank has more of; all ranks must call it."""
    # Asked before the first pass: later, one rank would ask while another makes a pass.
    missing = _most(len(batches)) - len(batches) if is_sharded(model) else 0
    yield from batches
    yield from [None] * missing


def dummy_pass(model: PeftModel) -> None:
    """A forward pass of one token and, unless under no_grad, the backward pass that belongs to it: zeros."""
    zeros = dummy_output(model)
    if torch.is_grad_enabled():
        zeros.backward()


def dummy_output(model: PeftModel) -> torch.Tensor:
    """A scalar 0 that depends on every adapted layer; for callers with a backward pass of their own."""
    base: Any = model.get_base_model()
    token = torch.zeros((1, 1), dtype=torch.long, device=base.get_output_embeddings().weight.device)
    return base.base_model(input_ids=token, use_cache=False).last_hidden_state.sum() * 0


def _most(number: int) -> int:
    """The largest over ranks."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)
