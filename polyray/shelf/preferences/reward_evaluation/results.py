"""The contents of metrics.json and mistakes.jsonl, from what was scored and measured. Called by pipeline.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.config.reward_validation import REWARD_VALIDATION, RewardValidationConfig
from polyray.shelf.preferences.reward_evaluation.held_out import HeldOut, Texts
from polyray.shelf.preferences.reward_evaluation.measures import Measured, Settings, compare, family
from polyray.shelf.preferences.reward_evaluation.slices import worst_slice
from polyray.shelf.preferences.reward_evaluation.statement import statements

NUM_MISTAKES = 8


@dataclass(frozen=True)
class Scored:
    """Scores of one scorer.

    Example:
        Scored(scores_N=np.array([.3, -1.2]), temperature=1.0, probes={}, about={"version": "9f86..."})
    """

    scores_N: np.ndarray
    temperature: float | None
    probes: Mapping[str, Any]
    about: Mapping[str, Any]


def counts(texts: Texts) -> dict[str, int]:
    """Numbers of pairs, samples, problems and clusters."""
    return {
        "n_pairs": len(texts.pairs),
        "n_pairs_left_out": texts.pairs.num_left_out,
        "n_samples": len(texts),
        "n_problems": len(np.unique(texts.prompt_ids_N)),
        "n_clusters": len(np.unique(texts.clusters_N)),
        "n_clusters_with_pairs": len(np.unique(texts.clusters_M)),
    }


def build_metrics(
    config: RewardValidationConfig,
    data: HeldOut,
    texts: Texts,
    scored: Mapping[str, Scored],
    measured: Mapping[str, Measured],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Metrics without the slices: `models` and `comparisons` as in every evaluation, and the verdict in words.

    Args:
        rows: those of slices.csv, for the worst of each model.
    """
    settings = Settings.of(config)
    models, baselines = list(config.models), list(config.baselines)
    metrics: dict[str, Any] = {
        "kind": REWARD_VALIDATION,
        "dataset_sha256": data.sha256,
        "part": data.part,
        **counts(texts),
        "n_records_unscored": len(data.validated) - len(texts),
        "min_gap": config.data.min_gap,
        "seed": config.seed,
        "confidence": config.confidence,
        "resamples": config.bootstrap_resamples,
        "models": {
            name: {
                metric: {"value": {"value": found.value, "low": found.low, "high": found.high}}
                for metric, found in measured[name].metrics.items()
            }
            for name in measured
        },
        "scorers": {
            name: {"role": "model" if name in config.models else "baseline", **scored[name].about}
            | dict(measured[name].counts)
            for name in measured
        },
        "calibration": {
            name: found.calibration.as_json()
            for name, found in measured.items()
            if found.calibration is not None
        },
        "family": family(models, baselines),
        "comparisons": compare(measured, models, baselines, texts, settings),
        "worst_slices": {name: worst_slice(rows, name, config.min_slice_pairs) for name in models},
        "probes": {name: dict(scored[name].probes) for name in models},
    }
    return {"statement": statements(config, metrics), **metrics}


def worst_mistakes(name: str, scores: np.ndarray, texts: Texts) -> list[dict[str, Any]]:
    """The pairs with the largest gap in the wrong direction, one per prompt."""
    gaps_M = scores[texts.pairs.better_M] - scores[texts.pairs.worse_M]
    found: dict[str, dict[str, Any]] = {}
    for at in np.argsort(gaps_M, kind="stable"):
        if gaps_M[at] >= 0 or len(found) == NUM_MISTAKES:
            break
        better, worse = (texts.records[side[at]] for side in (texts.pairs.better_M, texts.pairs.worse_M))
        found.setdefault(
            better.prompt_id,
            {
                "scorer": name,
                "prompt": better.prompt,
                "better": better.completion,
                "worse": worse.completion,
                "engagement": [better.engagement, worse.engagement],
                "score_gap": float(gaps_M[at]),
                "url": better.url,
                "licence": better.licence,
            },
        )
    return list(found.values())
