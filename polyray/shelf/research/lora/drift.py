"""Movement of an update along checkpoints: distance from the start, length and direction of each step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from polyray.shelf.research.lora.updates import Update


@dataclass(frozen=True, slots=True)
class Drift:
    """One module along N checkpoints.

    Example:
        Drift(norm=(1.0, 1.2), from_first=(0.0, .5), moved=(.5,), turned=())
    """

    norm: tuple[float, ...]
    """[N] Frobenius."""
    from_first: tuple[float, ...]
    """[N] distance from the first checkpoint."""
    moved: tuple[float, ...]
    """[N - 1] distance from one checkpoint to the next."""
    turned: tuple[float, ...]
    """[N - 2] cosine of a step and the one before: 1 straight on, 0 at random, below 0 back. NaN without a step."""


def drift(checkpoints: Sequence[Update]) -> Drift:
    """Drift of one module; the first checkpoint comes first."""
    steps = [after.minus(before) for before, after in itertools.pairwise(checkpoints)]
    lengths = [_norm(step) for step in steps]
    turned = []
    for index in range(1, len(steps)):
        product = lengths[index - 1] * lengths[index]
        turned.append(steps[index - 1].inner(steps[index]) / product if product > 0 else math.nan)
    return Drift(
        norm=tuple(_norm(update) for update in checkpoints),
        from_first=tuple(_norm(update.minus(checkpoints[0])) for update in checkpoints),
        moved=tuple(lengths),
        turned=tuple(turned),
    )


def _norm(update: Update) -> float:
    return math.sqrt(max(0.0, update.inner(update)))
