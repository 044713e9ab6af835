"""Trials that Tune's scheduler stops are asked once to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from polyray.config.sweep import SchedulerSpec
from polyray.sweeps.scheduler import scheduler_of
from polyray.sweeps.trial import STEP

ENDED: list[str] = []


def end(trial: Any) -> None:
    ENDED.append(trial.trial_id)


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_the_worse_trial_is_asked_to_end_and_not_judged_again(kind: str) -> None:
    ENDED.clear()
    spec = SchedulerSpec.model_validate({"type": kind, "grace_steps": 1, "reduction_factor": 2.0})
    scheduler = scheduler_of(spec, 4, end)
    stored = cloudpickle.dumps(scheduler)  # type: ignore[reportPrivateImportUsage]
    scheduler = cloudpickle.loads(stored)  # Tune stores it with the state of the sweep
    scheduler.set_search_properties("pass_at_8", "max")
    trials = [Trial("run_trial", stub=True) for _ in range(4)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    decisions = []
    waiting = SimpleNamespace(get_live_trials=lambda: [Trial("run_trial", stub=True)])
    for step in (1, 2, 3, 4):
        for badness, trial in enumerate(trials):  # the last trial is the worst
            result = {STEP: step, "pass_at_8": 0.01 * step - badness, "training_iteration": step}
            decisions.append(scheduler.on_trial_result(waiting, trial, result))  # type: ignore[arg-type]
    assert set(decisions) == {TrialScheduler.CONTINUE}
    assert trials[3].trial_id in ENDED and trials[0].trial_id not in ENDED
    assert len(ENDED) == len(set(ENDED))


def test_default_scheduler_is_fifo() -> None:
    assert type(scheduler_of(SchedulerSpec(), 4, end)) is FIFOScheduler
