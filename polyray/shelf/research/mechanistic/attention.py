"""Attention patterns as numbers: how spread one is, and how far two are apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_entropy_of_rows(weights: Tensor, visible: Tensor) -> Tensor:
    """Entropy of each row over the largest it can have, log(visible): 0 one place, 1 all alike.

    `weights` [..., rows, places], rows that sum to 1; `visible` [rows], how many places each row sees, at least 2.
    Returns [..., rows].
    """
    if int(visible.min()) < 2:
        raise ValueError(f"a row sees {int(visible.min())} place; its entropy is always 0, leave it out")
    entropy = torch.special.entr(weights.double()).sum(-1)
    return entropy / visible.double().log()


def pattern_distance(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon distance of every two rows: 0 the same, 1 nothing in common (base 2; a metric, Endres and
    Schindelin 2003, doi:10.1109/TIT.2003.813506).

    Both [..., rows, places]; returns [..., rows].
    """
    first, second = first.double(), second.double()
    both = torch.special.entr((first + second) / 2).sum(-1)
    own = (torch.special.entr(first).sum(-1) + torch.special.entr(second).sum(-1)) / 2
    return ((both - own).clamp(min=0.0) / math.log(2)).sqrt()
