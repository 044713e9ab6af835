"""Frozen results of a comparison of models, made by comparison.py, written into metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.metrics.bootstrap import DifferenceInterval
from polyray.metrics.non_inferiority import NonInferiority
from polyray.metrics.significance import SignificanceTest


@dataclass(frozen=True, slots=True)
class EffectSizes:
    """e.g. EffectSizes(cohens_d=.12, cohens_d_z=.31, cliffs_delta=.08)."""

    cohens_d: float
    cohens_d_z: float
    """Cohen's d_z of the pairs; infinite if all prompts differ by the same amount."""
    cliffs_delta: float

    def as_json(self) -> dict[str, float | None]:
        """JSON entry; null for infinite and undefined numbers."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class PairComparison:
    """One model against another on one metric. A difference above 0 means `model` has the larger mean.

    Example:
        PairComparison(metric="pass_at_k/8", model="polychromic", baseline="grpo", mean=.61, baseline_mean=.57,
                       difference=.04, low=.015, high=.066, hierarchical=None, num_prompts=400,
                       num_clusters=120, num_seeds=(1, 1), primary=SignificanceTest(...),
                       mann_whitney=SignificanceTest(...), p_adjusted=.012, mann_whitney_p_adjusted=.3,
                       effect_sizes=EffectSizes(...), non_inferiority=None)
    """

    metric: str
    model: str
    baseline: str
    mean: float
    baseline_mean: float
    difference: float
    low: float
    """BCa, over clusters of prompts; the seeds at hand are taken as given."""
    high: float
    hierarchical: DifferenceInterval | None
    """Interval over seeds and clusters, which covers other trainings. None for one seed."""
    num_prompts: int
    num_clusters: int
    num_seeds: tuple[int, int]
    """Seeds of model and of baseline."""
    primary: SignificanceTest
    """Sign-flip permutation over clusters, of the mean over seeds."""
    mann_whitney: SignificanceTest
    """Unpaired, for readers who know it from elsewhere."""
    p_adjusted: float
    """Adjusted p-value of the primary test, within the family of all pairs and metrics."""
    mann_whitney_p_adjusted: float
    """Adjusted within the family of Mann-Whitney tests."""
    effect_sizes: EffectSizes
    non_inferiority: NonInferiority | None
    """Test of non-inferiority; None without a margin."""

    def as_json(self) -> dict[str, Any]:
        """JSON entry."""
        interval = self.hierarchical
        return {
            "metric": self.metric,
            "model": self.model,
            "baseline": self.baseline,
            "mean": self.mean,
            "baseline_mean": self.baseline_mean,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "hierarchical": None if interval is None else {"low": interval.low, "high": interval.high},
            "n_problems": self.num_prompts,
            "n_clusters": self.num_clusters,
            "n_seeds": list(self.num_seeds),
            "primary": self.primary.as_json() | {"p_adjusted": self.p_adjusted},
            "mann_whitney": self.mann_whitney.as_json() | {"p_adjusted": self.mann_whitney_p_adjusted},
            "effect_sizes": self.effect_sizes.as_json(),
            "non_inferiority": None if self.non_inferiority is None else self.non_inferiority.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs, and the family that their p-values are adjusted for.

    Example:
        Comparison(pairs=(PairComparison(...), ...), family="12 tests: 4 metrics x 3 pairs")
    """

    pairs: tuple[PairComparison, ...]
    """Metrics in the order given; for each the pairs with the baseline first."""
    family: str
