"""Agreement of a judge with another judge, and with people.

    agreement(a, b)               two judges on the same items: share, Cohen's kappa, Krippendorff's alpha
    human_correlation(rows, ...)  rubric scores against mean human ratings, per criterion, overall and within prompt

Called by polyray judge, and to compare two judgements.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyray.errors import DataError
from polyray.shelf.judge.items import Judgement
from polyray.shelf.judge.summary import Intervals

_SIDES = ("a", "tie", "b")
"""Ordered sides: a tie is between the two, which ordinal agreement takes into account."""


def agreement(judgements_a: Sequence[Judgement], judgements_b: Sequence[Judgement]) -> dict[str, Any]:
    """Agreement of two judges on the items that both have judged.

    {"n_items", "n_unjudged", "n_unmatched", "values": {NAME: {"share", "cohens_kappa", "krippendorff_alpha"}}}:
    NAME is verdict and each criterion (pairwise), or each criterion (rubric). Alpha is ordinal; kappa and share
    take values as equal or not. In cluster mode NAME is same_strategy: for every two candidates of an item,
    whether they are in one group. Measures that are undefined, because all values are equal, are None.

    Raises DataError where modes differ or no item is in both.
    """
    first, second = ({row.item_id: row for row in rows} for rows in (judgements_a, judgements_b))
    shared = [item_id for item_id in first if item_id in second]
    modes = {row.mode for rows in (judgements_a, judgements_b) for row in rows}
    if len(modes) > 1:
        raise DataError(f"judgements of different modes ({', '.join(sorted(modes))}) cannot be compared")
    both = [(first[i], second[i]) for i in shared if first[i].judged and second[i].judged]
    if not both:
        raise DataError(
            f"no item is judged in both: {len(first)} and {len(second)} items, {len(shared)} in common; "
            "compare judgements of the same samples"
        )
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for one, other in both:
        values_a, values_b = _values(one), _values(other)
        for name in values_a.keys() & values_b.keys():
            column = columns.setdefault(name, ([], []))
            column[0].extend(values_a[name])
            column[1].extend(values_b[name])
    return {
        "n_items": len(both),
        "n_unjudged": len(shared) - len(both),
        "n_unmatched": len(first) + len(second) - 2 * len(shared),
        "values": {name: _measures(*columns[name]) for name in sorted(columns) if columns[name][0]},
    }


def human_correlation(
    judgements: Sequence[Judgement],
    ratings: Mapping[str, Mapping[str, float]],
    intervals: Intervals | None = None,
) -> dict[str, Any]:
    """Rubric scores against mean human ratings: {CRITERION: {spearman, kendall, *_within, intervals, counts}}.

    Args:
        judgements: of mode rubric; unjudged ones are left out.
        ratings: item_id -> criterion -> mean rating.

    `within` is the mean over prompts of the correlation among a prompt's texts (None where no prompt has two
    that differ); with prompts of different difficulty the overall value mixes the two. The criterion `quality`
    compares the judge's quality with the mean of the human criteria. Raises DataError where nothing matches.
    """
    settings = intervals or Intervals()
    rated = [row for row in judgements if row.judged and row.item_id in ratings]
    names = [
        name for name in (rated[0].result["scores"] if rated else ()) if name in ratings[rated[0].item_id]
    ]
    if len(rated) < 2 or not names:
        raise DataError(
            f"{len(rated)} judged texts have human ratings, with {len(names)} criteria in common; at least two "
            "texts and one criterion are needed: use criteria: hanna for HANNA's ratings"
        )
    prompts = [row.task_id for row in rated]
    found: dict[str, Any] = {}
    for name in names:
        judge = [float(row.result["scores"][name]) for row in rated]
        found[name] = _correlation(judge, [ratings[row.item_id][name] for row in rated], prompts, settings)
    human = [float(np.mean([ratings[row.item_id][name] for name in names])) for row in rated]
    found["quality"] = _correlation([row.result["quality"] for row in rated], human, prompts, settings)
    return found


def _correlation(
    judge: Sequence[float], human: Sequence[float], prompts: Sequence[str], intervals: Intervals
) -> dict[str, Any]:
    from polyray.metrics.bootstrap import bootstrap_mean
    from polyray.metrics.quality import engagement_correlation

    found = engagement_correlation(judge, human, prompts)
    result = found.as_json() | {"spearman_interval": _overall_interval(judge, human, prompts, intervals)}
    if len(found.groups) > 1:
        within = bootstrap_mean(
            found.spearman_by_group, None, intervals.resamples, intervals.confidence, intervals.seed
        )
        result["spearman_within_interval"] = [within.low, within.high]
    return result


def _overall_interval(
    judge: Sequence[float], human: Sequence[float], prompts: Sequence[str], intervals: Intervals
) -> list[float] | None:
    """Percentile bootstrap over prompts of Spearman's rho; resamples without variation are drawn again by
    leaving them out. None where fewer than two prompts, or nothing, varies."""
    from scipy.stats import rankdata

    names, prompt_of = np.unique(np.asarray(prompts), return_inverse=True)
    members = [np.flatnonzero(prompt_of == number) for number in range(len(names))]
    first, second = np.asarray(judge, np.float64), np.asarray(human, np.float64)
    generator = np.random.default_rng(intervals.seed)
    values = []
    for _ in range(intervals.resamples if len(names) > 1 else 0):
        drawn = np.concatenate(
            [members[number] for number in generator.integers(len(names), size=len(names))]
        )
        one, other = rankdata(first[drawn]), rankdata(second[drawn])
        if np.ptp(one) and np.ptp(other):
            values.append(np.corrcoef(one, other)[0, 1])
    if not values:
        return None
    tail = (1 - intervals.confidence) / 2
    return [float(value) for value in np.quantile(values, [tail, 1 - tail])]


def _values(row: Judgement) -> dict[str, list[float]]:
    """Numbers per name of one judgement; equal numbers are equal opinions."""
    if row.mode == "pairwise":
        sides = {"verdict": row.result["verdict"], **row.result["criteria"]}
        return {name: [float(_SIDES.index(side))] for name, side in sides.items()}
    if row.mode == "rubric":
        return {name: [float(score)] for name, score in row.result["scores"].items()}
    classes = row.result["classes"]
    together = [
        float(classes[i] == classes[j]) for i in range(len(classes)) for j in range(i + 1, len(classes))
    ]
    return {"same_strategy": together}


def _measures(a: Sequence[float], b: Sequence[float]) -> dict[str, float | None]:
    from polyray.metrics.agreement import cohens_kappa, krippendorff_alpha

    values = {
        "share": float(np.mean(np.asarray(a) == np.asarray(b))),
        "cohens_kappa": cohens_kappa(a, b),
        "krippendorff_alpha": krippendorff_alpha([list(a), list(b)], "ordinal"),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
