"""Parts and phases that share no cluster and see the same engagement. Pure and seeded. Called by pipeline.py.

Clusters are sorted into cells by their number of records (powers of two) and by the mean engagement of their
records (`strata` equal groups), and shuffled within a cell. In that order each goes to the part that is furthest
behind its share of the records so far. So every part gets its share of large and of small clusters, and of much
and of little engagement; where a part ends up behind by chance, the small clusters at the end make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polyray.config.curate import PartsSpec
from polyray.data.splits import seeded_rank
from polyray.shelf.preferences.engagement import EngagementRecord

STRATA = 10
"""Equal groups by engagement that every part gets its share of."""


def divide(
    clusters: Mapping[str, Sequence[float]], shares: Mapping[str, float], *, strata: int, seed: int
) -> dict[str, str]:
    """cluster -> part.

    Args:
        clusters: the engagement of each cluster's records.
        shares: part -> share of the records, above 0 for parts that are to get something; they sum to 1.
        strata: groups by engagement.
        seed: another one, another division.

    Every part with a share gets at least one cluster. Raises ValueError for fewer clusters than parts.
    """
    wanted = {part: share for part, share in shares.items() if share > 0}
    if len(clusters) < len(wanted):
        raise ValueError(
            f"{len(clusters)} clusters cannot be divided into {', '.join(wanted)}: each needs one; add data, loosen "
            "the filters, or set a share to 0"
        )
    part_of: dict[str, str] = {}
    given = dict.fromkeys(wanted, 0.0)
    total = 0.0
    for name in _in_cells(clusters, strata, seed):
        total += len(clusters[name])
        part = max(wanted, key=lambda part: wanted[part] * total - given[part])
        part_of[name] = part
        given[part] += len(clusters[name])
    for part in wanted:
        if part not in part_of.values():
            richest = max(wanted, key=lambda other: list(part_of.values()).count(other))
            part_of[[name for name, own in part_of.items() if own == richest][-1]] = part
    return part_of


def assign_parts(
    records: Sequence[EngagementRecord], spec: PartsSpec, seed: int
) -> dict[str, tuple[str, str | None]]:
    """cluster -> (part, phase); the phase is None outside the training part. Raises ValueError, as `divide`."""
    clusters: dict[str, list[float]] = {}
    for record in records:
        clusters.setdefault(record.cluster_id, []).append(record.engagement)
    training = 1.0 - spec.test_share - spec.validation_share
    shares = {"train": training, "validation": spec.validation_share, "test": spec.test_share}
    part_of = divide(clusters, shares, strata=STRATA, seed=seed)
    trained = {name: values for name, values in clusters.items() if part_of[name] == "train"}
    phases = {"sft": spec.sft_share, "rl": 1.0 - spec.sft_share}
    phase_of = divide(trained, phases, strata=STRATA, seed=seed + 1)
    return {name: (part, phase_of.get(name)) for name, part in part_of.items()}


def _in_cells(clusters: Mapping[str, Sequence[float]], strata: int, seed: int) -> list[str]:
    """Names, large clusters first; among those of one size, cells of engagement; within a cell, shuffled."""
    names = sorted(clusters)
    means = [float(np.mean(sorted(clusters[name]))) for name in names]
    groups = np.empty(len(names), int)
    groups[np.argsort(means, kind="stable")] = np.arange(len(names)) * strata // max(1, len(names))
    cells = dict(zip(names, groups.tolist(), strict=True))
    return sorted(
        names,
        key=lambda name: (-len(clusters[name]).bit_length(), cells[name], seeded_rank(seed, name)),
    )
