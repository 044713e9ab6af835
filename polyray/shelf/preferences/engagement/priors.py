"""The Beta prior of a rate, estimated from all the rates of a data set (empirical Bayes). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class BetaPrior:
    """Mean and weight of a Beta distribution.

    Example:
        BetaPrior(rate=0.0131, impressions=1300.0)  # Beta(17.03, 1282.97)
    """

    rate: float
    impressions: float
    """Weight of the prior in impressions: the sum of the Beta's two parameters."""


def estimated_prior(clicks: Sequence[int], impressions: Sequence[int]) -> BetaPrior:
    """The prior by moments: the pooled rate, and the weight under which rates spread as they do.

    With p_i = clicks_i / n_i, w_i = n_i / sum(n), p the pooled rate and S = sum n_i (p_i - p)^2, a beta-binomial
    with correlation r has E[S] = p (1 - p) sum (1 - w_i) (1 + (n_i - 1) r); the weight is 1 / r - 1 (Kleinman,
    JASA 68, 1973). Rates that spread no more than chance alone give the greatest weight, sum(n). The pooled rate
    is that of half a click more in one impression more, so that it is between 0 and 1. Raises ValueError if
    nothing was shown.
    """
    clicks_N, shown_N = np.asarray(clicks, np.float64), np.asarray(impressions, np.float64)
    if clicks_N.shape != shown_N.shape or (clicks_N < 0).any() or (clicks_N > shown_N).any():
        raise ValueError("clicks and impressions must be of one length, with 0 <= clicks <= impressions")
    total = float(shown_N.sum())
    if total == 0:
        raise ValueError(
            "no row has impressions, so no prior can be estimated; give its rate and impressions"
        )
    rate = (float(clicks_N.sum()) + 0.5) / (total + 1.0)
    clicks_N, shown_N = clicks_N[shown_N > 0], shown_N[shown_N > 0]
    spread = float((shown_N * (clicks_N / shown_N - clicks_N.sum() / total) ** 2).sum())
    rest_N = 1.0 - shown_N / total
    more = float((rest_N * (shown_N - 1.0)).sum())
    correlation = (spread / (rate * (1.0 - rate)) - float(rest_N.sum())) / more if more > 0 else 0.0
    weight = total if correlation <= 0 else min(total, max(1.0, 1.0 / min(correlation, 1.0) - 1.0))
    return BetaPrior(rate, weight)
