"""The numbers about a curated set: distributions by part, how well parts agree, sizes. Pure.

Called by pipeline.py (statistics.json) and by the report.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from polyray.data.words import words_of
from polyray.shelf.preferences.engagement import EngagementRecord

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def groups_of(records: Iterable[EngagementRecord]) -> dict[str, list[EngagementRecord]]:
    """Records by part, and those of the training part again by phase: train, train/sft, train/rl, ..."""
    groups: dict[str, list[EngagementRecord]] = {
        name: [] for name in ("train", "train/sft", "train/rl", "validation", "test")
    }
    for record in records:
        groups[str(record.part)].append(record)
        if record.phase is not None:
            groups[f"train/{record.phase}"].append(record)
    return groups


def distribution(values: Iterable[float]) -> dict[str, float | int | None]:
    """count, mean, std (of the population) and QUANTILES of values; None where there are none."""
    array = np.sort(np.asarray(list(values), np.float64))
    if not len(array):
        return {"count": 0, "mean": None, "std": None, **{f"q{int(100 * q)}": None for q in QUANTILES}}
    quantiles = np.quantile(array, QUANTILES)
    return {
        "count": len(array),
        "mean": float(array.mean()),
        "std": float(array.std()),
        **{f"q{int(100 * q)}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference of two empirical distribution functions, in [0, 1]. ValueError for an empty one."""
    if not len(a) or not len(b):
        raise ValueError(f"{len(a)} and {len(b)} values have no two distributions; give at least one each")
    first, second = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    points = np.concatenate([first, second])
    below_a = np.searchsorted(first, points, side="right") / len(first)
    below_b = np.searchsorted(second, points, side="right") / len(second)
    return float(np.abs(below_a - below_b).max())


def stratum_edges(engagement: Sequence[float], strata: int) -> list[float]:
    """Inner edges of groups of about equal size; equal ones are one, so discrete engagement gives fewer groups."""
    values = np.sort(np.asarray(engagement, np.float64))
    inner = np.quantile(values, np.arange(1, strata) / strata, method="inverted_cdf")
    return sorted({float(edge) for edge in inner if edge < values[-1]})


def balance(records: Sequence[EngagementRecord], strata: int) -> dict[str, Any]:
    """Compare the engagement of each group with that of all records.

    `shares`: share of each group's records by stratum (its upper edge belongs to it).
    `kolmogorov_smirnov` and `max_share_difference`: the distance to all records, 0 for equal distributions.
    """
    all_values = [record.engagement for record in records]
    edges = stratum_edges(all_values, strata)

    def shares(values: Sequence[float]) -> list[float]:
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        return (counts / len(values)).tolist()

    overall = shares(all_values)
    result: dict[str, Any] = {"edges": edges, "shares": {"all": overall}, "groups": {}}
    for name, members in groups_of(records).items():
        values = [record.engagement for record in members]
        if not values:
            continue
        own = shares(values)
        result["shares"][name] = own
        result["groups"][name] = {
            "kolmogorov_smirnov": kolmogorov_smirnov(values, all_values),
            "max_share_difference": max(abs(a - b) for a, b in zip(own, overall, strict=True)),
        }
    return result


def group_numbers(records: Sequence[EngagementRecord]) -> dict[str, Any]:
    """Sizes and distributions of a group of records."""
    return {
        "records": len(records),
        "prompts": len({record.prompt_id for record in records}),
        "clusters": len({record.cluster_id for record in records}),
        "comparable_pairs": num_comparable_pairs(records),
        "engagement": distribution(record.engagement for record in records),
        "words": distribution(len(words_of(record.completion)) for record in records),
    }


def num_comparable_pairs(records: Iterable[EngagementRecord]) -> int:
    """Number of pairs within one prompt_id with different engagement."""
    by_prompt: dict[str, Counter[float]] = {}
    for record in records:
        by_prompt.setdefault(record.prompt_id, Counter())[record.engagement] += 1
    return sum(_pairs(counts.total()) - sum(map(_pairs, counts.values())) for counts in by_prompt.values())


def cluster_numbers(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """Numbers of clusters from record_id -> cluster, before and after joining: count, size, joined ones."""
    sizes = Counter(after.values())
    largest = max(sizes.values(), default=0)
    return {
        "count": len(sizes),
        "before_joining": len({before[name] for name in after}),
        "largest": largest,
        "largest_share": largest / len(after) if after else 0.0,
    }


def counted(values: Iterable[str]) -> dict[str, int]:
    """Value -> how often, the most frequent first, equal ones by the alphabet."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def records_sha256(records: Iterable[EngagementRecord]) -> str:
    """sha256 of the records' JSON lines in the order given."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def by_group(
    records: Sequence[EngagementRecord], numbers: Callable[[Sequence[EngagementRecord]], Any]
) -> dict[str, Any]:
    """Group -> its numbers, with those of all records first; empty groups are left out."""
    groups = {"all": list(records), **groups_of(records)}
    return {name: numbers(members) for name, members in groups.items() if members}


def _pairs(number: int) -> int:
    return number * (number - 1) // 2
