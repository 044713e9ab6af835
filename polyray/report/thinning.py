"""Long curves with few points: what is drawn of thousands of steps is what a screen can show of them.

Called by figures.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 300
"""A panel is some 400 pixels wide."""
DIGITS = 5


def thinned(values: Sequence[float], limit: int = MAX_POINTS) -> list[int]:
    """Positions, ascending, of at most `limit` values that look the same when they are drawn in order.

    The first, the last, and of every bin of neighbours its smallest and its largest: no spike is lost. All
    positions where there are no more than `limit`. `limit` is at least 4.

    Example:
        thinned([0, 9, 1, 2, 0, 1, 7, 3], limit=6)  # [0, 1, 2, 4, 6, 7]
    """
    if limit < 4:
        raise ValueError(f"limit={limit}: two ends and two extremes are 4 points; give at least 4")
    if len(values) <= limit:
        return list(range(len(values)))
    array = np.asarray(values, dtype=np.float64)
    kept = {0, len(array) - 1}
    for part in np.array_split(np.arange(1, len(array) - 1), (limit - 2) // 2):
        kept |= {int(part[np.argmin(array[part])]), int(part[np.argmax(array[part])])}
    return sorted(kept)


def rounded(values: Sequence[float]) -> list[float]:
    """Values with DIGITS significant digits: more cannot be seen, and make a page large."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
