"""Numbers about scorers on the validated part, with intervals over clusters, and tests against the baselines.

All scorers are measured on the same records and pairs. Called by pipeline.py; the estimators are those of
polyray.metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.config.reward_validation import RewardValidationConfig
from polyray.metrics.bootstrap import MeanInterval, mean_intervals
from polyray.metrics.calibration import Calibration, best_temperature, pair_calibration
from polyray.metrics.comparison import compare_models
from polyray.metrics.correlation import (
    Kind,
    bootstrap_correlation,
    group_correlations,
    without_group_means,
)
from polyray.metrics.multiplicity import holm
from polyray.metrics.pairwise import pair_hits
from polyray.shelf.preferences.reward_evaluation.held_out import Texts
from polyray.shelf.preferences.reward_evaluation.scorers import text_lengths

FAMILY_METRIC = "pairwise_accuracy"
"""Metric of the tests; the other metrics have intervals only."""
NUM_BINS = 10
"""Bins of the reliability diagram."""
LENGTH_MATCH = 0.1
"""Lengths that differ by at most this share are equally long."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of intervals and tests.

    Example:
        Settings(resamples=2000, permutations=10000, confidence=.95, seed=0)
    """

    resamples: int
    permutations: int
    confidence: float
    seed: int

    @classmethod
    def of(cls, config: RewardValidationConfig) -> Settings:
        """Settings of a configuration."""
        return cls(config.bootstrap_resamples, config.permutations, config.confidence, config.seed)

    def mean(self, values: Any, clusters: Any) -> MeanInterval:
        """A mean with its interval."""
        return self.means([values], clusters)[0]

    def means(self, columns: Sequence[Any], clusters: Any) -> list[MeanInterval]:
        """Means of several columns over the same clusters, with one drawing for all."""
        return mean_intervals(columns, clusters, self.resamples, self.confidence, self.seed, "percentile")


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics of one scorer on the validated part.

    Example:
        Measured(metrics={"pairwise_accuracy": MeanInterval(.58, .55, .61), ...}, hits_M=np.array([1., 0., .5]),
                 calibration=None, counts={"groups_ranked": 180})
    """

    metrics: Mapping[str, MeanInterval]
    """Metrics that the data allows."""
    hits_M: np.ndarray
    """Hit of each pair: 1, 0.5 for a tie, 0."""
    calibration: Calibration | None
    """Calibration; None if the scorer has no log-odds scale and there was no part to fit one on."""
    counts: Mapping[str, int]


def fitted_temperature(scores: np.ndarray, texts: Texts) -> float | None:
    """Divisor that turns scores into log-odds, fitted on another part; None if no pair has two scores."""
    gaps = scores[texts.pairs.better_M] - scores[texts.pairs.worse_M]
    gaps = gaps[np.isfinite(gaps)]
    return best_temperature(gaps) if len(gaps) else None


def measure(
    scores: np.ndarray, texts: Texts, temperature: float | None, config: RewardValidationConfig
) -> Measured:
    """All metrics of one scorer.

    Args:
        scores: [N], finite.
        texts: the validated part.
        temperature: what `scores` are divided by to be log-odds; 1 where they are, None where it is not known.
    """
    settings, pairs = Settings.of(config), texts.pairs
    hits_M = pair_hits(scores[pairs.better_M], scores[pairs.worse_M])
    metrics: dict[str, MeanInterval | None] = {FAMILY_METRIC: settings.mean(hits_M, texts.clusters_M)}
    metrics["pairwise_accuracy_by_prompt"] = _by_prompt(hits_M, texts, settings)
    ranked = group_correlations(scores, texts.engagement_N, texts.prompt_ids_N)
    if len(ranked.groups_Q):
        clusters_Q = texts.clusters_N[ranked.groups_Q]
        metrics["spearman_within"] = settings.mean(ranked.spearman_Q, clusters_Q)
        metrics["kendall_within"] = settings.mean(ranked.kendall_Q, clusters_Q)
    metrics |= _correlations(scores, texts, settings)
    metrics |= _about_length(scores, hits_M, texts, settings)
    found = None
    if temperature is not None:
        gaps_M = (scores[pairs.better_M] - scores[pairs.worse_M]) / temperature
        found = pair_calibration(
            gaps_M, texts.clusters_M, NUM_BINS, settings.resamples, settings.confidence, settings.seed
        )
        metrics |= {
            "expected_calibration_error": found.expected_error,
            "brier": found.brier,
            "log_loss": found.log_loss,
            "temperature": found.temperature,
        }
    kept = {name: interval for name, interval in metrics.items() if interval is not None}
    return Measured(kept, hits_M, found, {"groups_ranked": len(ranked.groups_Q), "groups": ranked.num_groups})


def length_matched(texts: Texts) -> np.ndarray:
    """[M] True where the longer of two completions is longer by at most LENGTH_MATCH of its length."""
    lengths = text_lengths(texts.completions)
    a, b = lengths[texts.pairs.better_M], lengths[texts.pairs.worse_M]
    return np.abs(a - b) <= LENGTH_MATCH * np.maximum(a, b)


def compare(
    measured: Mapping[str, Measured],
    models: Sequence[str],
    baselines: Sequence[str],
    texts: Texts,
    settings: Settings,
) -> list[dict[str, Any]]:
    """Every model against every baseline on pairwise accuracy, pair by pair; one Holm family."""
    found = []
    for model in models:
        for baseline in baselines:
            comparison = compare_models(
                {name: measured[name].hits_M for name in (baseline, model)},
                clusters=texts.clusters_M,
                baseline=baseline,
                resamples=settings.resamples,
                permutations=settings.permutations,
                confidence=settings.confidence,
                seed=settings.seed,
            )
            entry = comparison.pairs[0].as_json() | {"metric": FAMILY_METRIC}
            entry["n_pairs"] = entry.pop("n_problems")
            found.append(entry)
    if found:
        adjusted = holm([entry["primary"]["p_value"] for entry in found])
        for entry, p_value in zip(found, adjusted, strict=True):
            entry["primary"]["p_adjusted"] = float(p_value)
            entry["mann_whitney"].pop("p_adjusted")  # the family is adjusted for its primary test only
    return found


def family(models: Sequence[str], baselines: Sequence[str]) -> str:
    """The family of tests, in words."""
    return (
        f"{len(models) * len(baselines)} tests: {len(models)} models x {len(baselines)} baselines on pairwise "
        "accuracy, sign-flip permutation by cluster, two-sided, adjusted by Holm"
    )


def _by_prompt(hits_M: np.ndarray, texts: Texts, settings: Settings) -> MeanInterval:
    """Each prompt weighs the same, however many pairs it has."""
    names, first, prompt_of = np.unique(
        texts.prompt_ids_N[texts.pairs.better_M], return_index=True, return_inverse=True
    )
    means = np.bincount(prompt_of, hits_M) / np.bincount(prompt_of, minlength=len(names))
    return settings.mean(means, texts.clusters_M[first])


def _correlations(scores: np.ndarray, texts: Texts, settings: Settings) -> dict[str, MeanInterval | None]:
    """Correlations over all records, and without each prompt's mean on both sides."""
    sides = {
        "": (scores, texts.engagement_N),
        "_without_prompt_means": (
            without_group_means(scores, texts.prompt_ids_N),
            without_group_means(texts.engagement_N, texts.prompt_ids_N),
        ),
    }
    kinds: tuple[Kind, ...] = ("spearman", "pearson")
    return {
        f"{kind}{suffix}": _correlation(a, b, texts, kind, settings)
        for suffix, (a, b) in sides.items()
        for kind in kinds
    }


def _correlation(
    a: np.ndarray, b: np.ndarray, texts: Texts, kind: Kind, settings: Settings
) -> MeanInterval | None:
    return bootstrap_correlation(
        a, b, texts.clusters_N, kind, settings.resamples, settings.confidence, settings.seed
    )


def _about_length(
    scores: np.ndarray, hits_M: np.ndarray, texts: Texts, settings: Settings
) -> dict[str, MeanInterval | None]:
    """Dependence of the score on length, and its accuracy on pairs of equal length."""
    lengths = text_lengths(texts.completions)
    centred_scores = without_group_means(scores, texts.prompt_ids_N)
    centred_lengths = without_group_means(lengths, texts.prompt_ids_N)
    matched_M = length_matched(texts)
    matched = settings.mean(hits_M[matched_M], texts.clusters_M[matched_M]) if matched_M.any() else None
    return {
        "length_spearman": _correlation(scores, lengths, texts, "spearman", settings),
        "length_spearman_without_prompt_means": _correlation(
            centred_scores, centred_lengths, texts, "spearman", settings
        ),
        "pairwise_accuracy_length_matched": matched,
    }
