"""Bands of a front: prompts resampled by cluster, the same ones for all models. Called by pareto.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyray.errors import DataError
from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.evaluation.per_prompt import MetricKey, MetricSettings, compute_table
from polyray.evaluation.sample_source import SampleList
from polyray.metrics import hypervolume, pareto_front
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.report.numbers import Interval
from polyray.report.run_data import Evaluation

BAND_POINTS = 61


def resampled_points(
    evaluations: Sequence[Evaluation], models: Sequence[str], keys: tuple[MetricKey, MetricKey]
) -> np.ndarray | None:
    """[B, M, 2] means of resampled clusters; None where samples are gone, or seeds were asked different prompts."""
    if not all(entry.samples for entry in evaluations):
        return None
    metrics = evaluations[0].metrics
    ks = sorted({1, int(keys[1][1])})
    settings = MetricSettings(ks, "", {}, pass_threshold=float(metrics.get("pass_threshold", PASS_THRESHOLD)))
    order: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    values_SMP2 = []
    for entry in evaluations:
        source = SampleList(entry.samples)
        order = order or tuple(source.task_ids(models[0]))
        if any(set(source.task_ids(model)) != set(order) for model in models):
            return None
        try:
            tables = [compute_table(model, source, order, settings) for model in models]
        except DataError:  # fewer scored samples than k: metrics.json has its numbers from elsewhere
            return None
        clusters = tables[0].clusters
        values_SMP2.append([np.stack([table.values[key] for key in keys], axis=1) for table in tables])
    values_MP2 = np.mean(values_SMP2, axis=0)
    drawn = ClusterBootstrap.draw(
        clusters,
        int(metrics.get("bootstrap_resamples", 2000)),
        float(metrics.get("confidence", 0.95)),
        int(metrics.get("seed", 0)),
    )
    num_models, num_prompts, _ = values_MP2.shape
    columns = values_MP2.transpose(1, 0, 2).reshape(num_prompts, num_models * 2)
    return drawn.resampled_means(columns).reshape(-1, num_models, 2)


def spreads(
    means_M2: np.ndarray, resampled_BM2: np.ndarray | None, confidence: float
) -> list[tuple[Interval, Interval]]:
    """(quality, diversity) of each point with its interval; without resamples low = value = high."""
    low, high = (means_M2, means_M2) if resampled_BM2 is None else _quantiles(resampled_BM2, confidence)
    return [
        (Interval(float(x), float(a), float(b)), Interval(float(y), float(c), float(d)))
        for (x, y), (a, c), (b, d) in zip(means_M2, low, high, strict=True)
    ]


def front_shares(resampled_BM2: np.ndarray) -> np.ndarray:
    """[M] Duplicates are all on the front, as in polyray.metrics.pareto_front."""
    counts = np.zeros(resampled_BM2.shape[1])
    for points in resampled_BM2:
        counts[pareto_front(points)] += 1
    return counts / len(resampled_BM2)


def area_interval(
    area: float, resampled_BM2: np.ndarray | None, reference: tuple[float, float], confidence: float
) -> Interval:
    """The hypervolume with its interval."""
    if resampled_BM2 is None:
        return Interval(area, area, area)
    low, high = _quantiles(np.array([hypervolume(points, reference) for points in resampled_BM2]), confidence)
    return Interval(area, float(low), float(high))


def front_band(
    resampled_BM2: np.ndarray, floor: float, confidence: float
) -> tuple[tuple[float, float, float], ...]:
    """Interval of the largest diversity among points of at least each quality of a grid."""
    qualities, diversities = resampled_BM2[..., 0], resampled_BM2[..., 1]
    found = []
    for quality in np.linspace(qualities.min(), qualities.max(), BAND_POINTS):
        reached = np.where(qualities >= quality, diversities, floor).max(axis=1)
        low, high = _quantiles(reached, confidence)
        found.append((float(quality), float(low), float(high)))
    return tuple(found)


def _quantiles(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
