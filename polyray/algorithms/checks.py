"""Argument checks of set objectives; those of single arrays are in polyray.metrics.arrays."""

from __future__ import annotations

from math import isfinite

from polyray.metrics.arrays import check_set_size


def check_group_size(k: int, num_samples: int, *, at_least: int = 1) -> None:
    """ValueError unless `at_least` <= k <= N - 1: an unbiased credit compares sets with and without a sample."""
    check_set_size(
        k,
        num_samples - 1,
        f"N={num_samples} samples must be at least k + 1 for an unbiased credit; sample more or lower k",
        at_least=at_least,
    )


def check_weight(weight: float, name: str) -> None:
    """ValueError for a negative weight or one that is no number: the sign belongs to the objective."""
    if not isfinite(weight):
        raise ValueError(f"{name}={weight} must be a finite number")
    if weight < 0:
        raise ValueError(f"{name}={weight} must not be negative; 0 switches the term off")
