"""Gain from more samples, from a curve of pass@k: DER with its null, and the point of collapse.

Neither measures diversity. The samples of one prompt are independent, so pass@k depends on the chance p of a
pass alone, 1 - (1 - p)^k, however different the answers are; see distinct_correct_at_k for that. A curve is a
mapping k -> pass@k, or a sequence whose entry i belongs to k = i + 1. Called by evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, check_set_size, finite_vector

Curve = Mapping[int, float] | Sequence[float] | Floats
_ROUNDING = 1e-12
"""Gains are differences of rounded values; one that equals the threshold is not below it."""


def diversity_efficiency_ratio(curve_K: npt.ArrayLike, ks: Sequence[int]) -> Floats:
    """DER: pass@k / (k pass@1) at every k of `ks`; NaN where pass@1 is 0.

    1 where every further sample helps as much as the first, 1/k where it does not help. It falls from 1 to
    1/k as p goes from 0 to 1, for any diversity: a perfect model scores 1/k. So it is reported beside
    pass@1 and `diversity_efficiency_null`.

    Args:
        curve_K: [..., K] pass@1 to pass@K, means over prompts.
        ks: in 1..K.

    Returns:
        [..., len(ks)] float64.
    """
    curve = np.asarray(curve_K, dtype=np.float64)
    _check_ks(ks, curve.shape[-1])
    return _over_draws(curve[..., [k - 1 for k in ks]], curve[..., :1], ks)


def diversity_efficiency_null(curve_K: npt.ArrayLike, ks: Sequence[int]) -> Floats:
    """The DER of independent samples that pass with the same chance p = pass@1: (1 - (1 - p)^k) / (k p).

    DER / null <= 1 (Jensen): its distance from 1 shows how unequal the prompts are. Arguments and shape as in
    `diversity_efficiency_ratio`.
    """
    first = np.asarray(curve_K, dtype=np.float64)[..., :1]
    _check_ks(ks, np.shape(curve_K)[-1])
    return _over_draws(1.0 - (1.0 - first) ** np.array(ks, dtype=np.float64), first, ks)


def collapse_point(curve: Curve, threshold: float = 0.01) -> int | None:
    """The smallest k from which on every later gain per sample stays below `threshold`; None if there is none.

    The gain after k is (value at the next k' - value at k) / (k' - k): a gain per extra sample, for any
    spacing. The last k has no gain after it and never counts. Best used on the exact curve over all k.

    Raises:
        ValueError: an empty curve, NaN, k < 1.
    """
    values = _checked_curve(curve)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold={threshold} must be a finite number, e.g. 0.01")
    ks = np.array(list(values))
    gains = np.diff(list(values.values())) / np.diff(ks)
    still_gaining = np.flatnonzero(gains >= threshold - _ROUNDING)
    first_quiet = int(still_gaining[-1]) + 1 if len(still_gaining) else 0
    return int(ks[first_quiet]) if first_quiet < len(gains) else None


def _over_draws(passes: Floats, first: Floats, ks: Sequence[int]) -> Floats:
    """passes / (k first), NaN where first is 0."""
    safe = np.where(first > 0, first, 1.0)
    return np.where(first > 0, passes / (np.array(ks, dtype=np.float64) * safe), np.nan)


def _check_ks(ks: Sequence[int], longest: int) -> None:
    for k in ks:
        check_set_size(k, longest, "the length of the curve")


def _checked_curve(curve: Curve) -> dict[int, float]:
    """k -> value with ascending k."""
    points = dict(curve) if isinstance(curve, Mapping) else dict(enumerate(finite_vector(curve, "curve"), 1))
    finite_vector(list(points.values()), "curve")
    for k in points:
        check_set_size(k, max(points), "the largest k of the curve")
    return {int(k): float(points[k]) for k in sorted(points)}
