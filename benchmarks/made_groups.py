"""Lengths and rewards that a comparison forces on both sides."""

from __future__ import annotations

import numpy as np

from polyray.types import Group, ScoredGroup


def drawn_lengths(draw: np.random.Generator, count: int, longest: int, mean_share: float) -> list[int]:
    """`count` lengths from an exponential distribution with mean `mean_share` x longest, cut to 1 ... longest; the
    first is the longest."""
    lengths = np.clip(draw.exponential(mean_share * longest, count).astype(int), 1, longest)
    lengths[0] = longest
    return lengths.tolist()


def with_rewards_in_turns(group: Group) -> ScoredGroup:
    """0, 1, 0, 1, ...: every completion has an advantage, so none is spared its backward pass."""
    rewards_G = (np.arange(len(group.completions)) % 2).astype(float)
    return ScoredGroup(group, rewards_G, np.where(rewards_G == 1, 0, -1))
