"""Two or more models on the same prompts: everything a table needs to say about their differences.

    values --mean over seeds--> [P] per model --pairs--> difference per prompt
      difference with its BCa interval           (bootstrap.py; over seeds as well where there are several)
      p-value: sign-flip permutation             (significance.py; Mann-Whitney beside it)
      effect sizes                               (effect_sizes.py)
      "quality is kept" within a margin          (non_inferiority.py)
    all pairs of all metrics --> adjusted p-values   (multiplicity.py)

Not here: where the values come from. Intervals are two-sided and not adjusted. Called by evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy.typing as npt

from polyray.metrics.arrays import Floats, seed_matrix
from polyray.metrics.bootstrap import MeanInterval, mean_intervals, paired_hierarchical_bootstrap
from polyray.metrics.clusters import cluster_indices
from polyray.metrics.compared import Comparison, EffectSizes, PairComparison
from polyray.metrics.effect_sizes import cliffs_delta, cohens_d, cohens_d_z
from polyray.metrics.multiplicity import holm
from polyray.metrics.non_inferiority import tost_non_inferiority
from polyray.metrics.significance import mann_whitney, sign_flip_permutation_test

VALUE = "value"
"""The metric's name where only one is compared."""
PERMUTATIONS = 100_000
"""Holm multiplies the smallest p, 1 / (1 + permutations), by the number of tests: up to 5,000 can be shown."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """Settings shared by all pairs."""

    clusters: npt.ArrayLike | None
    num_clusters: int
    margins: Mapping[str, float]
    resamples: int
    permutations: int
    confidence: float
    seed: int


def compare_models(
    values: Mapping[str, npt.ArrayLike],
    *,
    clusters: npt.ArrayLike | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    resamples: int = 2000,
    permutations: int = PERMUTATIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Models on one metric: `values` is model -> [P] or [S, P]; the rest as in `compare_metrics`."""
    return compare_metrics(
        {VALUE: values},
        clusters=clusters,
        baseline=baseline,
        margins=None if margin is None else {VALUE: margin},
        resamples=resamples,
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    )


def compare_metrics(
    values: Mapping[str, Mapping[str, npt.ArrayLike]],
    *,
    clusters: npt.ArrayLike | None = None,
    baseline: str | None = None,
    all_pairs: bool = False,
    margins: Mapping[str, float] | None = None,
    resamples: int = 2000,
    permutations: int = PERMUTATIONS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare models on several metrics; p-values are adjusted over the family of all tests.

    Args:
        values: metric -> model -> one value per prompt, [P], or a row per training seed, [S, P] (models may
            differ in S). All models have the same prompts in the same order.
        clusters: [P] cluster labels; None: each prompt by itself.
        baseline: the model the others are compared with; the first by default.
        all_pairs: also every other pair, the later model against the earlier one.
        margins: metric -> the largest loss that counts as none; those metrics get a non-inferiority verdict at
            alpha = 1 - confidence. Higher is better: negate values that are to be small.
        resamples, confidence, seed: of the intervals.
        permutations: of the sign-flip test.

    Raises:
        ValueError: fewer than 2 models or clusters, models or prompts that differ between metrics, NaN, an
            unknown baseline, metric in `margins` or option.
    """
    matrices, reference = _checked(values, baseline, margins or {})
    num_prompts = next(iter(next(iter(matrices.values())).values())).shape[1]
    _, num_clusters = cluster_indices(clusters, num_prompts)
    if num_clusters < 2:
        raise ValueError("there is 1 cluster of prompts, at least 2 are needed to compare models")
    chosen = [
        ((metric, model, other), (models[model], models[other]))
        for metric, models in matrices.items()
        for other, model in _pairs(list(models), reference, all_pairs)
    ]
    settings = _Settings(clusters, num_clusters, margins or {}, resamples, permutations, confidence, seed)
    columns = [first.mean(axis=0) - second.mean(axis=0) for _, (first, second) in chosen]
    intervals = mean_intervals(columns, clusters, resamples, confidence, seed, "bca")
    pairs = [
        _pair(names, pair, interval, settings)
        for (names, pair), interval in zip(chosen, intervals, strict=True)
    ]
    return Comparison(
        pairs=_adjusted_pairs(pairs),
        family=f"{len(pairs)} tests: {len(matrices)} metrics x {len(pairs) // len(matrices)} pairs",
    )


def _checked(
    values: Mapping[str, Mapping[str, npt.ArrayLike]], baseline: str | None, margins: Mapping[str, float]
) -> tuple[dict[str, dict[str, Floats]], str]:
    """Checked values, each as [S, P], and the baseline's name."""
    if not values:
        raise ValueError("values is empty; give at least one metric")
    models = list(next(iter(values.values())))
    if len(models) < 2:
        raise ValueError(f"there is nothing to compare with: values has {models}; give at least 2 models")
    reference = models[0] if baseline is None else baseline
    if reference not in models:
        raise ValueError(f"baseline={reference!r} is none of the models {', '.join(models)}")
    unknown = [metric for metric in margins if metric not in values]
    if unknown:
        raise ValueError(f"margins names {unknown[0]!r}, which is none of {', '.join(values)}")
    matrices: dict[str, dict[str, Floats]] = {}
    num_prompts: int | None = None
    for metric, columns in values.items():
        if set(columns) != set(models):
            raise ValueError(
                f"{metric} has the models {list(columns)}, not {models}; all metrics need all models"
            )
        matrices[metric] = {name: seed_matrix(columns[name], f"{metric} of {name}") for name in models}
        for name, matrix in matrices[metric].items():
            num_prompts = matrix.shape[1] if num_prompts is None else num_prompts
            if matrix.shape[1] != num_prompts:
                raise ValueError(
                    f"{metric} of {name} has {matrix.shape[1]} prompts but others have {num_prompts}; "
                    "compare models on the same prompts"
                )
    return matrices, reference


def _pairs(models: list[str], baseline: str, all_pairs: bool) -> Iterator[tuple[str, str]]:
    """(reference, model), those with the baseline first."""
    ordered = sorted(models, key=lambda model: model != baseline)
    for reference, model in combinations(ordered, 2):
        if all_pairs or reference == baseline:
            yield reference, model


def _pair(
    names: tuple[str, str, str], matrices: tuple[Floats, Floats], interval: MeanInterval, settings: _Settings
) -> PairComparison:
    """One pair (metric, model, baseline), p-values not yet adjusted."""
    first, second = (matrix.mean(axis=0) for matrix in matrices)
    differences, clusters = first - second, settings.clusters
    margin = settings.margins.get(names[0])
    primary = sign_flip_permutation_test(differences, clusters, settings.permutations, settings.seed)
    unpaired = mann_whitney(first, second)
    return PairComparison(
        metric=names[0],
        model=names[1],
        baseline=names[2],
        mean=float(first.mean()),
        baseline_mean=float(second.mean()),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        hierarchical=paired_hierarchical_bootstrap(
            *matrices, clusters, settings.resamples, settings.confidence, settings.seed
        )
        if max(map(len, matrices)) > 1
        else None,
        num_prompts=len(differences),
        num_clusters=settings.num_clusters,
        num_seeds=(len(matrices[0]), len(matrices[1])),
        primary=primary,
        mann_whitney=unpaired,
        p_adjusted=primary.p_value,
        mann_whitney_p_adjusted=unpaired.p_value,
        effect_sizes=EffectSizes(
            cohens_d(first, second),
            cohens_d_z(differences),
            cliffs_delta(first, second),
        ),
        non_inferiority=None
        if margin is None
        else tost_non_inferiority(
            differences, margin, clusters=clusters, alpha=round(1.0 - settings.confidence, 12)
        ),
    )


def _adjusted_pairs(pairs: list[PairComparison]) -> tuple[PairComparison, ...]:
    """Every test adjusted by Holm within the tests of its kind over all pairs."""
    primary = holm([pair.primary.p_value for pair in pairs])
    unpaired = holm([pair.mann_whitney.p_value for pair in pairs])
    return tuple(
        replace(pair, p_adjusted=float(p_adjusted), mann_whitney_p_adjusted=float(unpaired_p))
        for pair, p_adjusted, unpaired_p in zip(pairs, primary, unpaired, strict=True)
    )
