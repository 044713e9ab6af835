"""Quality against diversity: which models, and which checkpoints, no other one beats in both.

    front = evaluated_front(evaluations)    of the evaluated models, with bands
    front = checkpoint_front(arms)          of the rounds of dynamics.jsonl, which keep no value per prompt: no bands

Bands resample prompts, by cluster, with the same prompts for all models; seeds of training are averaged and not
resampled. The front itself and its hypervolume are those of sweep/frontier.py. Drawn by pareto_figures.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyray.evaluation.per_prompt import MetricKey
from polyray.report.arms import Arm
from polyray.report.dynamics import trajectory
from polyray.report.numbers import Interval, is_number
from polyray.report.pareto_bands import area_interval, front_band, front_shares, resampled_points, spreads
from polyray.report.run_data import Evaluation
from polyray.report.sweep.frontier import frontier
from polyray.report.sweep.values import metric_words

CHECKPOINT_AXES = (
    ("pass_at_1", "distinct_correct_at_8"),
    ("pass_at_1", "diversity"),
    ("reward_mean", "diversity"),
)
"""Quality and diversity in dynamics.jsonl; the first pair that some run has."""


@dataclass(frozen=True, slots=True)
class Point:
    """A model or a checkpoint.

    Example:
        Point("polychromic", "polychromic", quality=Interval(.36, .34, .38), diversity=Interval(2.1, 2.0, 2.2),
              on_front=True, front_share=.98)
    """

    name: str
    arm: str
    """The arm's label."""
    quality: Interval
    """Quality with its interval; without a band low = value = high."""
    diversity: Interval
    on_front: bool
    front_share: float | None
    """Share of the resamples in which it is on the front; None without bands."""


@dataclass(frozen=True, slots=True)
class Front:
    """Points in the plane of quality and diversity, both to be large.

    Example:
        Front("pass@1", "distinct-correct@8", points=(Point(...),), reference=(0.0, 0.0), reference_rule="the origin",
              hypervolume=Interval(.75, .72, .78), band=((.30, 2.0, 2.2), (.31, 1.9, 2.1)))
    """

    quality: str
    diversity: str
    points: tuple[Point, ...]
    reference: tuple[float, float]
    reference_rule: str
    hypervolume: Interval
    band: tuple[tuple[float, float, float], ...]
    """(quality, low, high): the diversity that the front reaches at that quality or above; empty without bands."""


def evaluated_front(evaluations: Sequence[Evaluation]) -> Front | None:
    """Front of the models with numbers in every evaluation (seed); None for fewer than two.

    Quality is pass@1, or the mean reward if k = 1 was not evaluated; diversity is distinct-correct at the largest
    k.
    """
    if not evaluations:
        return None
    metrics = evaluations[0].metrics
    ks = sorted(int(k) for k in next(iter(metrics["models"].values()))["pass_at_k"])
    keys: tuple[MetricKey, MetricKey] = (
        ("pass_at_k", "1") if ks[0] == 1 else ("mean_reward", "value"),
        ("distinct_correct_at_k", str(ks[-1])),
    )
    models = [name for name in metrics["models"] if _is_measured(evaluations, name, keys)]
    if len(models) < 2:
        return None
    means = np.array([[_mean(evaluations, model, key) for key in keys] for model in models])
    resampled = resampled_points(evaluations, models, keys)
    confidence = float(metrics.get("confidence", 0.95))
    return _front(models, models, keys_words(keys), means, resampled, confidence)


def checkpoint_front(arms: Sequence[Arm]) -> Front | None:
    """Front of the rounds of all arms' RL, means over seeds; None unless two rounds have both numbers."""
    for quality, diversity in CHECKPOINT_AXES:
        names: list[str] = []
        labels: list[str] = []
        rows: list[tuple[float, float]] = []
        for arm in arms:
            reinforced = [run for run in arm.runs if not run.is_supervised]
            both = [trajectory(reinforced, key) for key in (quality, diversity)]
            first, second = (dict(zip(found.steps, found.mean, strict=True)) for found in both)
            for step in sorted(first.keys() & second.keys()):
                names.append(f"{arm.label}, step {step}")
                labels.append(arm.label)
                rows.append((first[step], second[step]))
        if len(rows) > 1:
            words = (quality.replace("pass_at_", "pass@"), _diversity_words(diversity))
            return _front(names, labels, words, np.array(rows), None, 0.95)
    return None


def keys_words(keys: tuple[MetricKey, MetricKey]) -> tuple[str, str]:
    """(("pass_at_k", "1"), ("distinct_correct_at_k", "8")) -> ("pass@1", "distinct-correct@8")"""
    return metric_words(keys[0]), metric_words(keys[1])


def _front(
    names: Sequence[str],
    labels: Sequence[str],
    words: tuple[str, str],
    means_M2: np.ndarray,
    resampled_BM2: np.ndarray | None,
    confidence: float,
) -> Front:
    # Two checkpoints of arms with one label may share a name, so the front is asked for positions.
    entries = [
        {"setting": str(at), "quality": float(x), "diversity": float(y)} for at, (x, y) in enumerate(means_M2)
    ]
    found = frontier(entries, [])
    on_front = {int(at) for at in found["front"]}
    reference = (float(found["reference"][0]), float(found["reference"][1]))
    intervals = spreads(means_M2, resampled_BM2, confidence)
    shares = None if resampled_BM2 is None else front_shares(resampled_BM2)
    area = float(found["hypervolume"])
    return Front(
        quality=words[0],
        diversity=words[1],
        points=tuple(
            Point(
                name,
                label,
                intervals[at][0],
                intervals[at][1],
                at in on_front,
                None if shares is None else float(shares[at]),
            )
            for at, (name, label) in enumerate(zip(names, labels, strict=True))
        ),
        reference=reference,
        reference_rule=str(found["reference_rule"]),
        hypervolume=area_interval(area, resampled_BM2, reference, confidence),
        band=() if resampled_BM2 is None else front_band(resampled_BM2, reference[1], confidence),
    )


def _is_measured(evaluations: Sequence[Evaluation], model: str, keys: Sequence[MetricKey]) -> bool:
    """Whether every seed has both numbers: what is not defined is null in metrics.json."""
    found = [entry.metrics["models"].get(model, {}) for entry in evaluations]
    return all(
        is_number(values.get(metric, {}).get(k, {}).get("value")) for values in found for metric, k in keys
    )


def _mean(evaluations: Sequence[Evaluation], model: str, key: MetricKey) -> float:
    metric, k = key
    return float(np.mean([entry.metrics["models"][model][metric][k]["value"] for entry in evaluations]))


def _diversity_words(key: str) -> str:
    return key.replace("distinct_correct_at_", "distinct-correct@").replace("_", " ")
