"""USQ: the quality of the candidate a selector picks out of k, which is what a user gets.

Not here: the selectors themselves (they produce the scores), and selectors that look at the whole set
(`diverse`), whose USQ has to be sampled. Called by evaluation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import check_set_size, finite_vector, ordered_vector
from polyray.metrics.combinatorics import miss_probability


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
    qualities = finite_vector(qualities_G, "qualities_G")
    num_samples = len(qualities)
    scores = ordered_vector(selector_scores_G, "selector_scores_G", num_samples)
    check_set_size(k, num_samples, f"qualities_G has {num_samples} samples; draw more samples or lower k")
    order = np.argsort(scores)
    ranked_scores = scores[order]
    block_starts = np.flatnonzero(np.concatenate(([True], ranked_scores[1:] != ranked_scores[:-1])))
    bounds = np.append(block_starts, num_samples)
    block_means = np.add.reduceat(qualities[order], block_starts) / np.diff(bounds)
    # C(b, k) / C(n, k) is the chance that none of the n - b samples above rank b is among the k.
    block_probabilities = np.diff(miss_probability(num_samples, int(k))[num_samples - bounds])
    return float(block_probabilities @ block_means)
