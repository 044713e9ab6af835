"""Schedulers of Tune that have a trial end in order instead of killing it (not a job itself).

A trial that is killed leaves what its processes had reserved to watchers of Ray's, which need the dashboard. Asked to
end, it finishes its step, writes a checkpoint and gives everything back, as a run does at SIGTERM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from polyray.config.sweep import SchedulerSpec
from polyray.sweeps.trial import STEP

EndTrial = Callable[[Any], None]
"""Asks a trial of Tune's to end."""


class _InOrder:
    """Mixin for a scheduler of Tune: a trial that it stops is asked to end, once, and is not judged any more."""

    def __init__(self, end: EndTrial, **options: Any) -> None:
        super().__init__(**options)
        self._end = end
        self._ending: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See `TrialScheduler.on_trial_result`."""
        if trial.trial_id in self._ending:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
        if decision != TrialScheduler.STOP:
            return decision
        self._ending.add(trial.trial_id)
        self._end(trial)
        return TrialScheduler.CONTINUE


class OrderlyAsha(_InOrder, ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2020)."""


class OrderlyMedian(_InOrder, MedianStoppingRule):
    """The median stopping rule (Golovin et al. 2017)."""


def scheduler_of(spec: SchedulerSpec, steps: int, end: EndTrial) -> TrialScheduler:
    """The scheduler of a sweep with trials of so many steps."""
    if spec.type == "asha":
        return OrderlyAsha(
            end,
            time_attr=STEP,
            max_t=steps
            + 1,  # a trial that reports max_t is stopped, and after its last validation it still writes
            grace_period=min(spec.grace_steps, steps),
            reduction_factor=spec.reduction_factor,
        )
    if spec.type == "median":
        # With less, trials are paused for those that wait, and begin each turn with the start of a process.
        return OrderlyMedian(end, time_attr=STEP, grace_period=spec.grace_steps, min_time_slice=math.inf)
    return FIFOScheduler()
