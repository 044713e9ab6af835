"""Conditions under which a model helps or hurts: its gain by difficulty, by answers known, by length.

Difficulty is the share that a reference model, usually the warm start, solves. It is measured on the reference's
EVEN samples, and gains on the ODD samples of both sides: prompts chosen for failures would otherwise seem to get
better by themselves (regression to the mean). This holds for every model, not for the reference alone, because
sample i of a prompt has the same seed in every model. Prompts with the largest loss are chosen on EVEN samples and
their loss is reported on ODD ones, for the same reason. Bins are of prompts, intervals over clusters, and not
adjusted for the number of bins. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.metrics import distinct_correct_at_k, pass_at_k
from polyray.metrics.arrays import Floats, Integers
from polyray.metrics.bootstrap import mean_intervals
from polyray.report.numbers import Interval
from polyray.shelf.research.evaluated.outcomes import EVEN, ODD, Outcomes
from polyray.types import WRONG_CLASS

NUM_BINS = 5
RESAMPLES = 2000
MANY_CLASSES = 4
"""Number of correct classes from which prompts share one bin."""
SAYS = {"higher": "helps", "lower": "hurts", "no difference shown": "no difference shown"}


@dataclass(frozen=True, slots=True)
class Compared:
    """Models of a comparison, and its settings.

    Example:
        Compared(baseline="GRPO", reference="warm start", ks=(1, 2, 4, 8), confidence=.95, seed=0)
    """

    baseline: str
    reference: str
    ks: tuple[int, ...]
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """One property of prompts.

    Example:
        Condition("difficulty", "share of warm start's samples that pass", values_P=np.array([.2, .8]))
    """

    name: str
    label: str
    values_P: Floats
    is_count: bool = False
    """Whole numbers with a bin each, in place of quantiles."""


def conditions(outcomes: Mapping[str, Outcomes], compared: Compared) -> dict[str, Any]:
    """The entry of one evaluation in conditions.json; a condition that cannot be told is there with its reason."""
    reference = outcomes[compared.reference]
    k = largest_k(compared.ks, reference.num_taken(ODD))
    entry: dict[str, Any] = {
        "baseline": compared.baseline,
        "reference": compared.reference,
        "k": k,
        "n_samples": reference.num_samples,
        "n_samples_used": {"condition": reference.num_taken(EVEN), "gain": reference.num_taken(ODD)},
        "confidence": compared.confidence,
        "conditions": {},
        "worst": {},
        "why_not": None,
    }
    if k is None:
        entry["why_not"] = (
            f"{reference.num_samples} samples per prompt cannot be halved for k={min(compared.ks)}; "
            "raise evaluation.num_samples"
        )
        return entry
    gains = {
        name: _gains(model, outcomes[compared.baseline], k)
        for name, model in outcomes.items()
        if name != compared.baseline
    }
    for condition in _known_conditions(reference):
        why_not = _why_not(condition)
        entry["conditions"][condition.name] = {
            "label": condition.label,
            "why_not": why_not,
            "models": {}
            if why_not
            else {name: _by_bin(columns, condition, reference, compared) for name, columns in gains.items()},
        }
    entry["worst"] = {name: _worst(outcomes[name], outcomes[compared.baseline]) for name in gains}
    return entry


def largest_k(ks: Sequence[int], num_samples: int) -> int | None:
    """The largest of `ks` that so many samples have an estimate for."""
    return max((k for k in ks if k <= num_samples), default=None)


def gain_names(k: int) -> list[str]:
    """The gains that every bin has, e.g. ["pass@1", "pass@8", "distinct-correct@8"]."""
    return list(dict.fromkeys(["pass@1", f"pass@{k}", f"distinct-correct@{k}"]))


def _gains(model: Outcomes, baseline: Outcomes, k: int) -> dict[str, Floats]:
    """name -> [P] model minus baseline, on the ODD samples of both."""
    own, other = _values(model, k), _values(baseline, k)
    return {name: own[name] - other[name] for name in gain_names(k)}


def _values(outcomes: Outcomes, k: int) -> dict[str, Floats]:
    taken, correct_P = outcomes.num_taken(ODD), outcomes.num_correct(ODD)
    found = {
        f"pass@{size}": np.asarray(pass_at_k(taken, correct_P, size), dtype=np.float64) for size in {1, k}
    }
    rows = zip(outcomes.classes_PN[:, ODD], outcomes.passed_PN[:, ODD], strict=True)
    found[f"distinct-correct@{k}"] = np.array(
        [distinct_correct_at_k(classes_G, passed_G, k) for classes_G, passed_G in rows]
    )
    return found


def _known_conditions(reference: Outcomes) -> list[Condition]:
    """Properties of the reference's EVEN samples or of the prompt, so none shares a seed with a gain."""
    rows = zip(reference.classes_PN[:, EVEN], reference.passed_PN[:, EVEN], strict=True)
    classes_P = np.array(
        [len(set(classes_G[passed_G].tolist()) - {WRONG_CLASS}) for classes_G, passed_G in rows],
        dtype=np.float64,
    )
    name = reference.model
    return [
        Condition(
            "difficulty",
            f"share of samples of {name} that pass",
            reference.num_correct(EVEN) / reference.num_taken(EVEN),
        ),
        Condition(
            "correct_classes",
            f"different correct answers that {name} found",
            np.minimum(classes_P, MANY_CLASSES),
            is_count=True,
        ),
        Condition("prompt_length", "length of the prompt, characters", reference.prompt_chars_P),
        Condition(
            "completion_length",
            f"mean length of completions of {name}, tokens",
            reference.tokens_PN[:, EVEN].mean(axis=1),
        ),
    ]


def _why_not(condition: Condition) -> str | None:
    if not condition.values_P.any() and condition.name.endswith("_length"):
        return "the samples do not say how long they are"
    if np.ptp(condition.values_P) == 0:
        return f"all prompts are alike in it: {condition.values_P[0]:g}"
    return None


def bin_of(values_P: Floats, num_bins: int = NUM_BINS) -> Integers:
    """[P] the number of each value's quantile bin, from 0 without gaps; equal values share a bin."""
    _, place_P, counts = np.unique(values_P, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    quantile_bins = num_bins * (2 * below + counts) // (2 * len(values_P))
    return np.unique(quantile_bins[place_P], return_inverse=True)[1].astype(np.int64)


def _by_bin(
    columns: Mapping[str, Floats], condition: Condition, reference: Outcomes, compared: Compared
) -> list[dict[str, Any]]:
    values_P = condition.values_P
    bins_P = np.unique(values_P, return_inverse=True)[1] if condition.is_count else bin_of(values_P)
    clusters_P = np.asarray(reference.clusters)
    found = []
    for number in range(int(bins_P.max()) + 1):
        chosen = bins_P == number
        own = clusters_P[chosen]
        entry = {
            "from": float(values_P[chosen].min()),
            "to": float(values_P[chosen].max()),
            "n_problems": int(chosen.sum()),
            "n_clusters": len(set(own.tolist())),
            "gains": _intervals({name: column[chosen] for name, column in columns.items()}, own, compared),
        }
        found.append(entry)
    return found


def _intervals(columns: Mapping[str, Floats], clusters: np.ndarray, compared: Compared) -> dict[str, Any]:
    """gain -> value, interval and what it says; no interval from one cluster."""
    if len(set(clusters.tolist())) < 2:
        return {
            name: {"value": float(column.mean()), "low": None, "high": None, "says": "one cluster alone"}
            for name, column in columns.items()
        }
    bounds = mean_intervals(
        list(columns.values()), clusters, RESAMPLES, compared.confidence, compared.seed, "bca"
    )
    return {
        name: {
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "says": SAYS[Interval(found.value, found.low, found.high).direction],
        }
        for name, found in zip(columns, bounds, strict=True)
    }


def _worst(model: Outcomes, baseline: Outcomes, count: int = 5) -> list[dict[str, Any]]:
    """The prompts with the largest loss in pass@1 on EVEN samples; among equals the first."""
    loss_P = _share(baseline, EVEN) - _share(model, EVEN)
    again_P = _share(baseline, ODD) - _share(model, ODD)
    order = np.argsort(-loss_P, kind="stable")[:count]
    return [
        {
            "task_id": model.task_ids[at],
            "cluster": model.clusters[at],
            "loss_chosen_on": float(loss_P[at]),
            "loss_other_samples": float(again_P[at]),
        }
        for at in order
        if loss_P[at] > 0
    ]


def _share(outcomes: Outcomes, which: slice) -> Floats:
    return outcomes.num_correct(which) / outcomes.num_taken(which)
