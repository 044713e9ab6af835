"""One trial of a sweep in a process of Ray Tune's: a training run that reports its validations (not a job)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.sweep_plan import TrialPlan

if TYPE_CHECKING:
    from jobs.fleet import Fleet

TRIAL = "trial"
"""The key of Tune's parameters that holds the trial's number among the plans."""
STEP = "step"


@dataclass(frozen=True, slots=True)
class SweepWork:
    """What every trial process is given.

    Example:
        SweepWork(plans=[TrialPlan(...)], fleet=Fleet(SharedPool(...), ...), metric="pass_at_8")
    """

    plans: list[TrialPlan]
    fleet: Fleet | None
    """None: each trial starts its own."""
    metric: str


def run_trial(parameters: dict[str, Any], work: SweepWork) -> None:
    """Tune's function. A trial that was here before goes on from its newest checkpoint; a finished one is told so."""
    from jobs.fleet import open_fleet
    from jobs.train import check_inputs, train
    from polyray.actors.shared_pool import SharedPool
    from polyray.observability.run_directory import RunDirectory

    plan = work.plans[parameters[TRIAL]]
    check_inputs(plan.config)
    with RunDirectory.open(plan.config) as directory:
        display = TrialDisplay(directory.paths.validation, work.metric)
        if not directory.finished:
            if work.fleet is None:
                with open_fleet(plan.config, plan.trial_id) as fleet:
                    train(plan.config, directory, fleet, display)
            else:
                assert isinstance(work.fleet.pool, SharedPool)
                fleet = replace(work.fleet, pool=work.fleet.pool.for_run(plan.trial_id))
                train(plan.config, directory, fleet, display)
        display.report_new()


class TrialDisplay:
    """Stands where a job has its progress display: what is new in validation.jsonl goes to Tune, in order."""

    def __init__(self, validation: Path, metric: str) -> None:
        self._validation = validation
        self._metric = metric
        self._reported = 0

    def update(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Called twice a second while the run goes on."""
        self.report_new()

    def note(self, text: str) -> None:
        """A line for people; the run's incidents.jsonl has it, too."""
        print(text, flush=True)

    def report_new(self) -> None:
        """One report for each validation that Tune has not seen. Tune may end the process inside."""
        from ray import tune

        from polyray.observability.jsonl import read_jsonl

        for line in read_jsonl(self._validation)[self._reported :]:
            self._reported += 1
            tune.report({STEP: line["version"], self._metric: line[self._metric]})
