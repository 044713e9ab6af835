"""Monitors: rules over the lines of metrics.jsonl or dynamics.jsonl, line by line.

A monitor's only state is the lines on disk, so a resumed run raises the alarms of an unbroken one. Rank 0 only. The
entries and their messages are config/monitors.py, the trend tests metrics/divergence.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from polyray.config.monitors import (
    GROWING_SHARE,
    OF_ROUNDS,
    SIGNIFICANCE,
    DivergeRule,
    DropRule,
    LimitRule,
    MonitorSpec,
)
from polyray.errors import MonitorStopped
from polyray.metrics.divergence import monotone_trend, parted

logger = logging.getLogger(__name__)

ABSENT_AFTER = 20
"""Steps without the metric after which a monitor of steps says so."""


class Monitors:
    """The monitors of a run that read one file, of steps or of rounds."""

    def __init__(
        self, specs: Iterable[MonitorSpec], lines: Iterable[Mapping[str, Any]], *, of_rounds: bool = False
    ) -> None:
        """`lines`: those that the file has so far. Rounds have `validation/NAME` under NAME."""
        self._watches = [_Watch(spec) for spec in specs if spec.of_rounds == of_rounds]
        for line in lines:
            for watch in self._watches:
                watch.take(line)
                watch.alarm = bool(line.get(watch.spec.key))

    def observe(self, line: Mapping[str, Any]) -> dict[str, int]:
        """Adds a line; returns what it gets: 0 or 1 under `monitor/NAME` for each monitor."""
        for watch in self._watches:
            watch.take(line)
            before, watch.alarm = watch.alarm, is_raised(watch.spec.rule, watch.values)
            if watch.alarm and not before:
                logger.warning("%s (newest value %.3g)", watch.spec.text, watch.values[-1][0])
        return {watch.spec.key: int(watch.alarm) for watch in self._watches}


class _Watch:
    """The values that one monitor has seen, and its alarm on the newest line."""

    def __init__(self, spec: MonitorSpec) -> None:
        self.spec = spec
        self.values: list[tuple[float, ...]] = []
        self.alarm = False
        self._names = [
            metric.removeprefix(OF_ROUNDS) if spec.of_rounds else metric for metric in spec.metrics
        ]
        self._absent = 0

    def take(self, line: Mapping[str, Any]) -> None:
        """Keeps the values of a line that has a number for each metric."""
        found = [line.get(name) for name in self._names]
        values = [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
        if len(values) == len(found):
            self.values.append(tuple(values))
        elif not self.spec.of_rounds and not all(name in line for name in self._names):
            self._absent += 1
            if self._absent == ABSENT_AFTER and not self.values:
                logger.warning(
                    "monitor %s: none of the first %d lines of metrics.jsonl has %s; check `metric` in monitors",
                    self.spec.name,
                    ABSENT_AFTER,
                    " and ".join(self._names),
                )


def raised_monitors(specs: Iterable[MonitorSpec], line: Mapping[str, Any]) -> list[MonitorSpec]:
    """Monitors whose alarm a line of metrics.jsonl has."""
    return [spec for spec in specs if line.get(spec.key)]


def stop_reason(specs: Iterable[MonitorSpec], line: Mapping[str, Any]) -> MonitorStopped | None:
    """The error that ends a run after the step of this line; None if it continues."""
    for spec in raised_monitors(specs, line):
        if spec.action == "stop":
            return MonitorStopped(f"stopped after step {line['step']}: {spec.text}")
    return None


def is_raised(rule: LimitRule | DropRule | DivergeRule, values: Sequence[tuple[float, ...]]) -> bool:
    """Whether the rule holds for the values so far, oldest first; one value of each metric for each line."""
    if isinstance(rule, LimitRule):
        return _is_beyond(rule, [first for first, *_ in values[-rule.window :]])
    if isinstance(rule, DropRule):
        lowest = (1 - rule.share) * values[0][0] if values else 0.0
        newest = values[-rule.in_a_row :]
        return lowest > 0 and len(newest) == rule.in_a_row and all(value < lowest for value, *_ in newest)
    newest = values[-rule.window :]
    return len(newest) == rule.window and parted(
        [value for value, _ in newest],
        [other for _, other in newest],
        min_rise=rule.min_rise,
        max_fall=rule.max_fall,
        significance=SIGNIFICANCE,
    )


def _is_beyond(rule: LimitRule, values: Sequence[float]) -> bool:
    """Whether the median of a full window is past the limit, or well on its way there and moving."""
    if len(values) < rule.window:
        return False
    median = float(np.median(values))
    if median > rule.limit if rule.below is None else median < rule.limit:
        return True
    if rule.healthy is None:
        return False
    way = (median - rule.healthy) / (rule.limit - rule.healthy)
    direction = "rise" if rule.below is None else "fall"
    return way > GROWING_SHARE and monotone_trend(values, direction).p_value <= SIGNIFICANCE
