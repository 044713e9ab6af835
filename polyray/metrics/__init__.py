"""Numbers about samples: pure functions of arrays, numpy only; no I/O, no clock, no global random state.

    pass_at_k.py    pass@k, best@k, distinct correct classes@k     selection.py      USQ@k
    statistics.py   bootstrap over prompts or clusters             combinatorics.py  exact binomial ratios
    arrays.py       argument checks

Suffix _G = samples of one prompt. polyray.algorithms builds on this package, never the other way round.
"""

from __future__ import annotations

from polyray.metrics.pass_at_k import best_at_k, distinct_correct_at_k, pass_at_k
from polyray.metrics.selection import usq_at_k
from polyray.metrics.statistics import DifferenceInterval, MeanInterval, bootstrap_mean, paired_bootstrap

__all__ = [
    "DifferenceInterval",
    "MeanInterval",
    "best_at_k",
    "bootstrap_mean",
    "distinct_correct_at_k",
    "paired_bootstrap",
    "pass_at_k",
    "usq_at_k",
]
