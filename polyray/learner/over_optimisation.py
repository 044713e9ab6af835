"""Detect over-optimisation: compare the reward with a second opinion, step by step.

    add_second_opinion   one group's share: means, spread, and the correlation of the two within groups
    second_opinion_metrics   the sums as keys of metrics.jsonl
    SecondOpinionWatch   values over several steps: the gap of the standardised means, and the alarm

The watch's only state is the lines of metrics.jsonl, so it survives a resume. Called by group_metrics.py and
run_files.py; the test behind the alarm is metrics/divergence.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from polyray.config.over_optimisation import SIGNIFICANCE, OverOptimisationSpec, alarm_text
from polyray.learner.reduce import Sums
from polyray.metrics.divergence import parted
from polyray.types import SECOND_OPINION, ScoredGroup, StepMetrics

logger = logging.getLogger(__name__)

MEAN = f"reward/{SECOND_OPINION}"
BASELINE_STEPS = 5
"""The means are standardised by those of the first so many steps, and by the spread of completions in them."""
_KEPT = ("reward_mean", "reward_std", MEAN, "second_opinion_std", "over_optimisation")


def add_second_opinion(sums: Sums, group: ScoredGroup) -> None:
    """Adds one group: over its completions that have both scores; deviations are from the group's own means.

    Always adds the same names, also where the second opinion is missing: ranks reduce them together.
    """
    scored_G = group.scored_mask_G
    nothing = (np.nan,) * len(scored_G)
    second_G = np.asarray(group.components.get(SECOND_OPINION, nothing), np.float64)
    both_G = scored_G & np.isfinite(second_G)
    first, second = group.rewards_G[both_G], second_G[both_G]
    sums.add(MEAN, float(second.sum()), len(second))
    sums.add("second_squared", float((second**2).sum()), len(second))
    sums.add("second_missing", float(scored_G.sum() - both_G.sum()), float(scored_G.sum()))
    first, second = (values - values.mean() if len(values) else values for values in (first, second))
    sums.add("second_covariance", float(first @ second), 1)
    sums.add("second_variance", float(second @ second), 1)
    sums.add("first_variance", float(first @ first), 1)


def second_opinion_metrics(sums: Sums) -> StepMetrics:
    """Keys of metrics.jsonl; none where no second opinion was added.

    The correlation is Pearson's of the deviations from each group's mean, pooled over groups; null where one of
    the two does not vary. Means and spreads are null where no completion had a second opinion.
    """
    if not sums.names() or "second_missing" not in sums.names():
        return {}
    known = sums.count(MEAN) > 0
    mean = sums.mean(MEAN)
    scale = float(np.sqrt(sums.total("first_variance") * sums.total("second_variance")))
    return {
        MEAN: mean if known else None,
        "second_opinion_std": float(np.sqrt(max(0.0, sums.mean("second_squared") - mean**2)))
        if known
        else None,
        "second_opinion_missing": sums.mean("second_missing"),
        "second_opinion_correlation": sums.total("second_covariance") / scale if scale > 0 else None,
    }


class SecondOpinionWatch:
    """Rank 0 only: reads the lines so far, then one step at a time."""

    def __init__(self, spec: OverOptimisationSpec | None, lines: Iterable[Mapping[str, Any]]) -> None:
        self._spec = spec
        self._lines = [_kept(line) for line in lines if MEAN in line]

    def observe(self, metrics: StepMetrics) -> StepMetrics:
        """Values that this step adds to its own line: second_opinion_gap, and over_optimisation with an alarm.

        The gap is how many standard deviations the reward's mean has moved since the first steps, minus the same
        for the second opinion. It is 0 while both move alike, and positive when only the reward rises.
        """
        if MEAN not in metrics:
            return {}
        self._lines.append(_kept(metrics))
        added: StepMetrics = {"second_opinion_gap": self._gap()}
        if self._spec is not None:
            alarm = self._has_parted(self._spec)
            before = self._lines[-2].get("over_optimisation") if len(self._lines) > 1 else 0
            if alarm and not before:
                logger.warning(alarm_text(self._spec))
            added["over_optimisation"] = self._lines[-1]["over_optimisation"] = int(alarm)
        return added

    def _gap(self) -> float | None:
        first = [line for line in self._lines[:BASELINE_STEPS] if _is_complete(line)]
        now = self._lines[-1]
        if not first or not _is_complete(now):
            return None
        moved = []
        for mean, spread in (("reward_mean", "reward_std"), (MEAN, "second_opinion_std")):
            unit = float(np.mean([line[spread] for line in first]))
            if unit <= 0:
                return None
            moved.append((now[mean] - float(np.mean([line[mean] for line in first]))) / unit)
        return moved[0] - moved[1]

    def _has_parted(self, spec: OverOptimisationSpec) -> bool:
        """Steps without a second opinion are passed over; the window is the last `window` that have one."""
        known = [line for line in self._lines if _is_complete(line)][-spec.window :]
        if len(known) < spec.window:
            return False
        return parted(
            [line["reward_mean"] for line in known],
            [line[MEAN] for line in known],
            min_rise=spec.min_rise,
            max_fall=spec.max_fall,
            significance=SIGNIFICANCE,
        )


def _kept(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in _KEPT if key in line}


def _is_complete(line: Mapping[str, Any]) -> bool:
    return all(isinstance(line.get(key), int | float) for key in _KEPT[:4])
