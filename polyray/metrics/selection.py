"""USQ: the quality of the candidate a selector picks out of k, which is what a user gets; and its bounds.

random@k <= USQ@k <= oracle@k holds for every selector that is not harmful: random picks blindly, oracle knows
the truth. Not here: the selectors themselves (they produce the scores). A selector that looks at the whole
set (`diverse`) has no score per sample; its USQ is averaged over k-subsets by `usq_at_k_sampled`. Called by
evaluation, once per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import check_set_size, finite_vector, ordered_vector
from polyray.metrics.combinatorics import miss_probability
from polyray.metrics.pass_at_k import best_at_k

_ROUNDING = 1e-12
Select = Callable[[tuple[int, ...]], int]
"""Indices of the k candidates on show, ascending -> the index of the one that is picked."""


def usq_at_k(selector_scores_G: npt.ArrayLike, qualities_G: npt.ArrayLike, k: int) -> float:
    """User selection quality: expected quality of the highest-scored of k samples, ties broken uniformly.

    Unbiased from n >= k samples. Samples sorted by score; a block of equal scores on ranks a..b is picked
    with probability [C(b, k) - C(a-1, k)] / C(n, k) and is worth its mean quality. scores = qualities gives
    best@k, constant scores give the mean quality for every k.

    Args:
        selector_scores_G: [G], higher is preferred; infinities are ranked, equal means exactly equal.
        qualities_G: [G], finite, not necessarily in [0, 1].
        k: 1 <= k <= G.

    Raises:
        ValueError: k > G, different lengths, NaN.
    """
    return usq_curve(selector_scores_G, qualities_G, (k,))[0]


def usq_curve(selector_scores_G: npt.ArrayLike, qualities_G: npt.ArrayLike, ks: Sequence[int]) -> list[float]:
    """USQ@k for several k, from one sorting. Arguments as in `usq_at_k`."""
    qualities = finite_vector(qualities_G, "qualities_G")
    num_samples = len(qualities)
    scores = ordered_vector(selector_scores_G, "selector_scores_G", num_samples)
    for k in ks:
        _check_k(k, num_samples)
    order = np.argsort(scores)
    ranked_scores = scores[order]
    block_starts = np.flatnonzero(np.concatenate(([True], ranked_scores[1:] != ranked_scores[:-1])))
    bounds = np.append(block_starts, num_samples)
    block_means = np.add.reduceat(qualities[order], block_starts) / np.diff(bounds)
    # C(b, k) / C(n, k) is the chance that none of the n - b samples above rank b is among the k.
    above = num_samples - bounds
    return [float(np.diff(miss_probability(num_samples, int(k))[above]) @ block_means) for k in ks]


def usq_at_k_sampled(
    select: Select, qualities_G: npt.ArrayLike, k: int, subsets: int = 1000, seed: int = 0
) -> float:
    """USQ@k of a selector that depends on the whole set: the mean quality of its picks.

    All C(G, k) subsets are enumerated where there are at most `subsets`, and the result is exact; otherwise
    `subsets` of them are drawn uniformly with replacement, which is unbiased with a standard error of at most
    the qualities' range / (2 sqrt(subsets)).

    Args:
        select: gets the indices of the candidates on show (ascending) and returns one of them.
        qualities_G: [G], finite.
        k: 1 <= k <= G.
        subsets: how many subsets are looked at, at most.
        seed: of the drawing.

    Raises:
        ValueError: k > G, subsets < 1, NaN, or a pick that was not on show.
    """
    qualities = finite_vector(qualities_G, "qualities_G")
    _check_k(k, len(qualities))
    if subsets < 1:
        raise ValueError(f"subsets={subsets} must be at least 1; 1000 is usual")
    total = 0.0
    count = 0
    for shown in _shown(len(qualities), int(k), subsets, seed):
        picked = select(shown)
        if picked not in shown:
            raise ValueError(
                f"select returned {picked!r} for the candidates {shown}; it must return one of these indices"
            )
        total += qualities[picked]
        count += 1
    return float(total / count)


def random_at_k(qualities_G: npt.ArrayLike, k: int) -> float:
    """Expected quality of a blind pick out of k samples: the mean, for any k. The lower bound of USQ@k."""
    qualities = finite_vector(qualities_G, "qualities_G")
    _check_k(k, len(qualities))
    return float(qualities.mean())


def oracle_at_k(qualities_G: npt.ArrayLike, k: int) -> float:
    """Expected quality of the pick of a selector that knows the truth: best@k. The upper bound of USQ@k."""
    return best_at_k(qualities_G, k)


def selection_efficiency(
    usq: npt.ArrayLike, oracle: npt.ArrayLike, random: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """(USQ@k - random@k) / (oracle@k - random@k): 0 blind, 1 oracle, below 0 worse than blind.

    NaN where there is nothing to choose: k = 1, or all samples equally good. Give means over prompts: the mean of
    the ratios of prompts would give those with hardly any room the same weight. Arrays of one shape.
    """
    picked, best, blind = (np.asarray(values, dtype=np.float64) for values in (usq, oracle, random))
    room = best - blind
    is_room = room > _ROUNDING
    return np.where(is_room, (picked - blind) / np.where(is_room, room, 1.0), np.nan)


def _check_k(k: int, num_samples: int) -> None:
    check_set_size(k, num_samples, f"qualities_G has {num_samples} samples; draw more samples or lower k")


def _shown(num_samples: int, k: int, subsets: int, seed: int) -> Iterator[tuple[int, ...]]:
    """All k-subsets of range(num_samples) where they are few, else `subsets` random ones."""
    if comb(num_samples, k) <= subsets:
        yield from combinations(range(num_samples), k)
        return
    generator = np.random.default_rng(seed)
    for _ in range(subsets):
        yield tuple(sorted(generator.choice(num_samples, size=k, replace=False).tolist()))
