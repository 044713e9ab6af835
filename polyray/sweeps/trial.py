"""One trial of a sweep in a process of Ray Tune's: a training run that reports its validations (not a job)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.config.sweep import SweepConfig
from polyray.errors import LearnerError, Stopped, is_permanent
from polyray.runs.atomic import atomic_write_text
from polyray.sweeps.plan import TrialPlan, at_once, trial_dir, trial_plan

if TYPE_CHECKING:
    from polyray.config.run import TrainConfig
    from polyray.launch.fleet import Fleet
    from polyray.launch.plan import RunPlan

TRIAL = "trial"
"""Keys of Tune's parameters: the trial's number, and what it needs to build its run."""
SEED = "seed"
PARAMETERS = "parameters"
STEP = "step"
FAILED = ".failed"
"""File in a trial's directory: the permanent error that its last try ended with."""


@dataclass(frozen=True, slots=True)
class SweepWork:
    """Input of every trial process.

    Example:
        SweepWork(config=SweepConfig(...), fleet=Fleet(SharedPool(...), ...))
    """

    config: SweepConfig
    fleet: Fleet | None
    """None: each trial starts its own."""
    start: str = ""
    """Differs for every start of the sweep."""


def as_tune_config(number: int, plan: TrialPlan) -> dict[str, Any]:
    """Tune's configuration of a trial, as plain values."""
    return {TRIAL: number, SEED: plan.seed, PARAMETERS: plan.parameters}


def run_trial(parameters: dict[str, Any], work: SweepWork) -> None:
    """Tune's function. An earlier trial resumes from its newest checkpoint; a finished one returns at once."""
    plan = trial_plan(work.config, parameters[TRIAL], parameters[PARAMETERS], parameters[SEED])
    with _tried_once(trial_dir(work.config, plan.trial_id) / FAILED, work.start):
        _run(plan, work)


@contextmanager
def _tried_once(file: Path, start: str) -> Iterator[None]:
    """Keeps a permanent error for Tune's next try in the same start of the sweep, which then ends with it at once.

    Tune tries every failed trial again, and has no say by kind of error.
    """
    if file.is_file():
        of_start, _, message = file.read_text(encoding="utf-8").partition("\n")
        if of_start == start:
            raise LearnerError(message)
        file.unlink()
    try:
        yield
    except Exception as error:
        if is_permanent(error):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, f"{start}\n{error}")
        raise


def _run(plan: TrialPlan, work: SweepWork) -> None:
    from polyray.launch.cost import trial_account
    from polyray.launch.plan import plan_training
    from polyray.launch.train import train
    from polyray.runs.run_directory import RunDirectory

    run = plan_training(plan.config, measure_prompts=False)  # the sweep has
    with RunDirectory.open(plan.config) as directory:
        display = TrialDisplay(directory.paths.dynamics, reported_metrics(work.config))
        if not directory.finished:
            sharing = None if work.fleet is None else at_once(work.config)
            with (
                trial_account(plan.config, sharing) as cost,
                suppress(Stopped),  # the scheduler had it end early
                _fleet_of(plan.trial_id, run, work.fleet) as fleet,
            ):
                train(run, directory, fleet, display, cost)
        display.report_new()


@contextmanager
def _fleet_of(trial_id: str, plan: RunPlan[TrainConfig], shared: Fleet | None) -> Iterator[Fleet]:
    from polyray.launch.fleet import fleet_owner, open_fleet
    from polyray.orchestrator.rollout_pool import SharedPool

    if shared is None:
        assert plan.fleet is not None
        with open_fleet(plan.fleet, fleet_owner(trial_id, plan.config.run_dir)) as fleet:
            yield fleet
        return
    assert isinstance(shared.pool, SharedPool)
    yield replace(shared, pool=shared.pool.for_run(trial_id))


def reported_metrics(config: SweepConfig) -> tuple[str, ...]:
    """Validation metrics that schedulers, the console and the search read."""
    return tuple(dict.fromkeys([config.metric, *(objective.metric for objective in config.objectives)]))


class TrialDisplay:
    """Replaces a job's progress display: sends new lines of dynamics.jsonl to Tune, in order."""

    def __init__(self, dynamics: Path, metrics: tuple[str, ...]) -> None:
        self._dynamics = dynamics
        self._metrics = metrics
        self._reported = 0

    def update(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Called twice a second during the run."""
        self.report_new()

    def note(self, text: str) -> None:
        """A line for people; the run's incidents.jsonl has it, too."""
        print(text, flush=True)

    def report_new(self) -> None:
        """One report for each round that Tune has not seen and that could be scored. Tune may end the process
        inside."""
        from ray import tune

        from polyray.runs.jsonl import read_jsonl

        for line in read_jsonl(self._dynamics)[self._reported :]:
            self._reported += 1
            if all(metric in line for metric in self._metrics):
                tune.report({STEP: line["version"], **{metric: line[metric] for metric in self._metrics}})
