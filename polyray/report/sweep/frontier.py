"""Quality against diversity: which settings no other one beats in both, and the area they dominate.

Points are means over seeds; single seeds are shown beside them. Called by results.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyray.metrics import hypervolume, pareto_front


def frontier(points: Sequence[dict[str, Any]], baseline: Sequence[str]) -> dict[str, Any]:
    """The front of settings, each {"setting", "quality", "diversity"}, with its hypervolume.

    The reference point is the origin, or the smallest value along an axis with values below 0.
    `baseline` are the labels of baseline settings; they alone give the hypervolume to compare with.
    """
    pairs = [(point["quality"], point["diversity"]) for point in points]
    reference = [min(0.0, *(pair[axis] for pair in pairs)) for axis in (0, 1)]
    known = [pair for point, pair in zip(points, pairs, strict=True) if point["setting"] in baseline]
    return {
        "reference": reference,
        "reference_rule": "the origin; along an axis with values below 0, the smallest value",
        "front": [points[index]["setting"] for index in pareto_front(pairs)],
        "hypervolume": hypervolume(pairs, reference),
        "baseline_hypervolume": hypervolume(known, reference) if known else None,
    }
