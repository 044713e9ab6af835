"""Theory against measurement: pass@k as the beta-binomial predicts it, and where one model overtakes another.

For every model a distribution of success is fitted to every other sample of each prompt (EVEN) and predicts pass@k
for all k. Its error, and the k from which one model leads another, are measured on the other half (ODD), which it was
not fitted to; the curve also has the values of all samples. A second fit to all samples says with a test whether such
a distribution describes the prompts at all, and looks beyond n. The statistics are
polyray.metrics.success_distribution. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from polyray.metrics import (
    SuccessDistribution,
    fit_success_distribution,
    goodness_of_fit,
    overtaking_k,
    pass_at_k,
)
from polyray.metrics.arrays import Floats
from polyray.metrics.bootstrap import mean_intervals, resample_counts
from polyray.metrics.clusters import cluster_indices
from polyray.shelf.research.evaluated.outcomes import ALL, EVEN, ODD, Outcomes

REFITS = 200
"""Resamples of clusters that are fitted anew: the intervals of predictions rest on them."""
TEST_RESAMPLES = 199
BOOTSTRAP_RESAMPLES = 2000
BEYOND = (2, 4, 8, 16)
"""Multiples of n for which there is a prediction and no measurement."""
NOTE = "the test of fit takes prompts for independent: where they share clusters its p is too small"
Fit = SuccessDistribution | None


def theory(outcomes: Mapping[str, Outcomes], confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """The entry of one evaluation in theory.json: every model, then every pair."""
    halves = {name: _fit(model, EVEN) for name, model in outcomes.items()}
    wholes = {name: _fit(model, ALL) for name, model in outcomes.items()}
    refits = {
        name: _refits(model, seed) if halves[name] is not None else [] for name, model in outcomes.items()
    }
    first = next(iter(outcomes.values()))
    return {
        "n_samples": first.num_samples,
        "n_fitted": first.num_taken(EVEN),
        "n_problems": len(first.task_ids),
        "n_clusters": len(set(first.clusters)),
        "confidence": confidence,
        "note": NOTE,
        "models": {
            name: _model(model, halves[name], wholes[name], refits[name], confidence, seed)
            for name, model in outcomes.items()
        },
        "pairs": [
            _pair((outcomes[one], outcomes[two]), halves, wholes, refits, confidence, seed)
            for one, two in combinations(outcomes, 2)
        ],
    }


def _fit(outcomes: Outcomes, which: slice) -> Fit:
    """Fitted distribution; None if nothing can be fitted; `_why_not` has the reason."""
    if _why_not(outcomes, which):
        return None
    return fit_success_distribution(outcomes.num_correct(which), outcomes.num_taken(which))


def _why_not(outcomes: Outcomes, which: slice) -> str:
    taken, correct = outcomes.num_taken(which), outcomes.num_correct(which)
    if taken < 2:
        return (
            f"{taken} sample per prompt says nothing about spread; raise evaluation.num_samples to 4 or more"
        )
    if correct.sum() in (0, taken * len(correct)):
        which_end = "never" if correct.sum() == 0 else "always"
        return f"all {len(correct)} prompts are {which_end} solved; there is no distribution to fit"
    return ""


def _refits(outcomes: Outcomes, seed: int) -> list[Fit]:
    """Fits to resampled clusters; the same seed draws the same clusters for every model, so fits are paired."""
    correct_P, taken = outcomes.num_correct(EVEN), outcomes.num_taken(EVEN)
    cluster_of_P, num_clusters = cluster_indices(outcomes.clusters, len(correct_P))
    fits: list[Fit] = []
    for counts_BC in resample_counts(num_clusters, REFITS, seed):
        for counts_C in counts_BC:
            drawn = np.repeat(correct_P, counts_C[cluster_of_P].astype(np.int64))
            ends = drawn.sum() in (0, taken * len(drawn))
            fits.append(None if ends else fit_success_distribution(drawn, taken))
    return fits


def _model(
    outcomes: Outcomes, half: Fit, whole: Fit, refits: Sequence[Fit], confidence: float, seed: int
) -> dict[str, Any]:
    test = None
    if whole is not None:
        test = asdict(
            goodness_of_fit(
                outcomes.num_correct(), outcomes.num_samples, whole, resamples=TEST_RESAMPLES, seed=seed
            )
        )
    curve = _curve(outcomes, half, refits, confidence, seed)
    beyond = [outcomes.num_samples * times for times in BEYOND]
    errors = [
        abs(point["predicted"] - point["measured_other_half"])
        for point in curve
        if point["predicted"] is not None and point["measured_other_half"] is not None
    ]
    return {
        "fit_half": _described(half),
        "fit": _described(whole),
        "why_no_fit": _why_not(outcomes, EVEN) or _why_not(outcomes, ALL) or None,
        "goodness_of_fit": test,
        "curve": curve,
        "largest_error": max(errors, default=None),
        "beyond": [] if whole is None else [{"k": k, "predicted": whole.pass_at_k(k)} for k in beyond],
    }


def _described(fit: Fit) -> dict[str, float] | None:
    if fit is None:
        return None
    return {"a": fit.a, "b": fit.b, "mean": fit.mean, "overdispersion": fit.overdispersion}


def _curve(
    outcomes: Outcomes, half: Fit, refits: Sequence[Fit], confidence: float, seed: int
) -> list[dict[str, Any]]:
    """One point for each k up to n; `measured_other_half` shares no sample with the prediction."""
    ks = range(1, outcomes.num_samples + 1)
    measured = mean_intervals(
        _columns(outcomes), outcomes.clusters, BOOTSTRAP_RESAMPLES, confidence, seed, "percentile"
    )
    others = _columns(outcomes, ODD)
    known = [fit for fit in refits if fit is not None]
    points = []
    for k, interval in zip(ks, measured, strict=True):
        low, high = _quantiles([fit.pass_at_k(k) for fit in known], confidence)
        points.append(
            {
                "k": k,
                "predicted": None if half is None else half.pass_at_k(k),
                "predicted_low": low,
                "predicted_high": high,
                "measured": interval.value,
                "low": interval.low,
                "high": interval.high,
                "measured_other_half": float(others[k - 1].mean()) if k <= len(others) else None,
            }
        )
    return points


def _columns(outcomes: Outcomes, which: slice = ALL) -> list[Floats]:
    """[P] pass@k for each k that these samples allow."""
    taken, correct_P = outcomes.num_taken(which), outcomes.num_correct(which)
    return [np.asarray(pass_at_k(taken, correct_P, k), dtype=np.float64) for k in range(1, taken + 1)]


def _pair(
    models: tuple[Outcomes, Outcomes],
    halves: Mapping[str, Fit],
    wholes: Mapping[str, Fit],
    refits: Mapping[str, Sequence[Fit]],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """`behind` has the lower measured pass@1; from which k on is it ahead, by theory and by measurement?

    `measured_k_other_half` shares no sample with the prediction and reaches to half of the samples.
    """
    behind, ahead = sorted(models, key=lambda model: int(model.num_correct().sum()))
    names = behind.model, ahead.model
    leads = _leads(behind, ahead, ALL)
    intervals = mean_intervals(leads, behind.clusters, BOOTSTRAP_RESAMPLES, confidence, seed, "bca")
    found = [
        _overtaking(one, other)
        for one, other in zip(*(refits[name] for name in names), strict=False)
        if one is not None and other is not None
    ]
    low, high = _quantiles(found, confidence)
    return {
        "behind": names[0],
        "ahead": names[1],
        "predicted_k": _finite(_overtaking(halves[names[0]], halves[names[1]])),
        "predicted_low": low,
        "predicted_high": high,
        "predicted_share": float(np.mean(np.isfinite(found))) if found else None,
        "predicted_k_all_samples": _finite(_overtaking(wholes[names[0]], wholes[names[1]])),
        "measured_k": _first_to_stay([interval.value for interval in intervals]),
        "measured_k_other_half": _first_to_stay(
            [float(lead_P.mean()) for lead_P in _leads(behind, ahead, ODD)]
        ),
        "shown_k": _first_to_stay([interval.low for interval in intervals]),
        "lead_at_n": asdict(intervals[-1]),
        "n_samples": behind.num_samples,
    }


def _leads(behind: Outcomes, ahead: Outcomes, which: slice) -> list[Floats]:
    return [one - other for one, other in zip(_columns(behind, which), _columns(ahead, which), strict=True)]


def _overtaking(behind: Fit, ahead: Fit) -> float:
    """1 where it is ahead from the start, infinite where it never is, NaN without two fits."""
    if behind is None or ahead is None:
        return float("nan")
    if behind.mean > ahead.mean:
        return 1.0
    k = overtaking_k(behind, ahead)
    return float("inf") if k is None else k


def _first_to_stay(leads: Sequence[float]) -> int | None:
    """The smallest k from which on every lead is above 0; None where the last one is not."""
    ks = [k for k, lead in enumerate(leads, 1) if lead <= 1e-12]
    last_behind = max(ks, default=0)
    return last_behind + 1 if last_behind < len(leads) else None


def _quantiles(values: Sequence[float], confidence: float) -> tuple[float | None, float | None]:
    """Quantiles of values that may be infinite, without interpolation; None for infinite quantiles."""
    if not values:
        return None, None
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(values, tails, method="inverted_cdf")
    return _finite(float(low)), _finite(float(high))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
