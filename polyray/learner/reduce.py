"""Sums over data-parallel ranks: gradients, denominators and metrics. One process: nothing happens.

Gradients of LoRA adapters are small, so they travel as one flat tensor after the last backward pass; ranks
may then have different numbers of rows and micro batches, down to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed was not started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def from_rank_0(value: Value) -> Value:
    """Value of rank 0, on every rank; anything that pickles."""
    if world_size() == 1:
        return value
    shared: list[Any] = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def gather(value: Value) -> list[Value]:
    """Every rank's value, by rank, on every rank; anything that pickles."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[torch.nn.Parameter], divide_by: float) -> None:
    """Replaces every gradient by its sum over ranks / divide_by; a rank without rows adds zeros."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    if world_size() > 1:
        dist.all_reduce(flat)
    flat /= divide_by
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of one number over ranks; `device` is one that their backend can reduce on."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / world_size()


class Sums:
    """Named sums with counts, maxima beside them; equal on every rank after `reduce`."""

    def __init__(self, sums: Sequence[str] = (), maxima: Sequence[str] = ()) -> None:
        self._sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in sums}
        self._maxima: dict[str, float] = dict.fromkeys(maxima, float("-inf"))

    def add(self, name: str, total: float, count: float) -> None:
        """Adds `total` over `count` items."""
        entry = self._sums.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count

    def maximum(self, name: str, value: float) -> None:
        """Keeps the largest value."""
        self._maxima[name] = max(self._maxima.get(name, float("-inf")), value)

    def merge(self, other: Sums, without: Sequence[str] = ()) -> None:
        """Adds another's sums, but those named, and keeps the larger maxima."""
        for name, (total, count) in other._sums.items():
            if name not in without:
                self.add(name, total, count)
        for name, value in other._maxima.items():
            self.maximum(name, value)

    def reduce(self) -> None:
        """Sums and maxima over ranks; a name that only some ranks have used counts nothing on the others."""
        if world_size() == 1:
            return
        for sums, maxima in gather((list(self._sums), list(self._maxima))):
            for name in sums:
                self._sums.setdefault(name, [0.0, 0.0])
            for name in maxima:
                self._maxima.setdefault(name, float("-inf"))
        names = sorted(self._sums)
        sums = torch.tensor([self._sums[name] for name in names], dtype=torch.float64)
        dist.all_reduce(sums)
        self._sums = dict(zip(names, sums.tolist(), strict=True))
        names = sorted(self._maxima)
        maxima = torch.tensor([self._maxima[name] for name in names], dtype=torch.float64)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        self._maxima = dict(zip(names, maxima.tolist(), strict=True))

    def names(self) -> list[str]:
        """Every name that was added to."""
        return sorted(self._sums)

    def total(self, name: str) -> float:
        """The sum."""
        return self._sums.get(name, [0.0, 0.0])[0]

    def count(self, name: str) -> float:
        """Number of items in a sum."""
        return self._sums.get(name, [0.0, 0.0])[1]

    def mean(self, name: str) -> float:
        """Sum / count; 0 where nothing was counted."""
        total, count = self._sums.get(name, [0.0, 0.0])
        return total / count if count else 0.0

    def largest(self, name: str) -> float:
        """The maximum; 0 where nothing was seen."""
        value = self._maxima.get(name, 0.0)
        return value if value > float("-inf") else 0.0
