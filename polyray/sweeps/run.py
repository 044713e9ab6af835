"""A sweep's trials on Ray Tune, and what became of each (not a job itself; called by polyray sweep)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ray
import ray.tune as tune
from ray.tune.callback import Callback as TuneCallback

from polyray.cluster.session import NAMESPACE, check_placement
from polyray.config.base import as_json
from polyray.config.sweep import SweepConfig
from polyray.errors import ConfigError, Stopped
from polyray.report.sweep.trials import Trial, TrialStatus, write_trials
from polyray.runs.atomic import atomic_write_text
from polyray.runs.cost import read_cost
from polyray.runs.jsonl import read_jsonl
from polyray.runs.progress import ProgressDisplay
from polyray.runs.run_directory import RunDirectory, RunPaths, refused_differences
from polyray.sweeps.plan import (
    TRIAL_CPUS,
    TrialPlan,
    at_once,
    largest_rank,
    parts_at_once,
    trial_dir,
    trial_plan,
)
from polyray.sweeps.scheduler import scheduler_of
from polyray.sweeps.search import TrialSearcher, open_settings
from polyray.sweeps.table import TrialTable, in_words, reason_of
from polyray.sweeps.trial import STEP, TRIAL, SweepWork, run_trial

if TYPE_CHECKING:
    from polyray.launch.fleet import Fleet

HOUR_S = 3600.0
OLD_OUTPUT = {"RAY_AIR_NEW_OUTPUT": "0"}
"""Setting against Tune's newer output: it prints a banner for any `verbose`, and counts trials to infinity."""


@contextmanager
def shared_fleet(config: SweepConfig, plans: list[TrialPlan]) -> Iterator[Fleet]:
    """One pool and one reward service for all trials."""
    from polyray.launch.fleet import fleet_owner, open_shared_fleet
    from polyray.launch.plan import plan_training

    fleet_plan = plan_training(plans[0].config).fleet
    assert fleet_plan is not None
    owner = fleet_owner(config.name, config.run_dir)
    with open_shared_fleet(fleet_plan, owner, largest_rank(plans), at_once(config)) as fleet:
        fleet.pool.wait_until_ready()
        yield fleet


def check_resources(config: SweepConfig, plans: list[TrialPlan]) -> None:
    """ResourceError where what runs at the same time can never be placed."""
    lower = "max_concurrent_trials, rollout.num_workers or cpus_per_worker"
    check_placement(parts_at_once(config, plans), lower)


def run_trials(
    config: SweepConfig,
    plans: list[TrialPlan],
    fleet: Fleet | None,
    directory: RunDirectory,
    display: ProgressDisplay,
) -> list[Trial]:
    """Run every trial to its end, resuming those of an earlier start; writes trials.jsonl.

    With a search, `plans` are stand-ins for trials that it has yet to suggest.
    """
    config = _with_own_file(config, plans, directory.paths)
    work = SweepWork(config, fleet, uuid.uuid4().hex)
    trainable = tune.with_resources(partial(run_trial, work=work), {"CPU": TRIAL_CPUS})
    experiment = directory.paths.tune
    searcher = TrialSearcher.of_this_process = TrialSearcher(config, open_settings(config))
    watch = _Watch.of_this_process = _Watch(config, searcher, plans[0].config.learner.steps, fleet, display)
    run_config = tune.RunConfig(
        name=experiment.name,
        storage_path=str(experiment.parent),
        failure_config=tune.FailureConfig(max_failures=config.max_failures),
        callbacks=[watch],
        verbose=0,
    )
    os.environ |= OLD_OUTPUT
    if tune.Tuner.can_restore(str(experiment)):
        tuner = tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=config.metric,
                mode=config.mode,
                search_alg=searcher,
                scheduler=scheduler_of(config.scheduler, plans[0].config.learner.steps, _end_early),
                max_concurrent_trials=config.max_concurrent_trials,
            ),
            run_config=run_config,
            # Until the searcher ends. In a TuneConfig this would be lost if Tune cannot read the state of a killed
            # process and begins anew.
            _tuner_kwargs={"num_samples": -1},
        )
    tuner.fit()
    trials = watch.trials()
    write_trials(directory.paths.root / "trials.jsonl", trials)
    if searcher.num_left:  # Tune returns as if all were well where it is interrupted
        raise Stopped(
            f"interrupted with {searcher.num_left} of {config.num_trials} trials to go; run the same command "
            "again to resume"
        )
    return trials


def _with_own_file(config: SweepConfig, plans: list[TrialPlan], paths: RunPaths) -> SweepConfig:
    """The same with a copy of the training file: trials that begin hours later do not see it edited.

    Raises ConfigError where it was edited since the sweep began: its trials would no longer be comparable.
    """
    own = paths.root / "train.yaml"
    copied = config.model_copy(update={"train": str(own)})
    if paths.tune.is_dir() and own.is_file():
        first = plans[0]
        before = trial_plan(copied, 0, first.parameters, first.seed).config
        changed = refused_differences(as_json(before), as_json(first.config))
        if changed:
            lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changed.items())
            raise ConfigError(
                f"{config.train} has changed since the sweep began:{lines}\nput it back, or give the sweep another "
                "name (name=...)"
            )
    atomic_write_text(own, Path(config.train).read_text(encoding="utf-8"))
    return copied


def _end_early(trial: Any) -> None:
    _Watch.of_this_process.end_early(trial.config[TRIAL])


class _Watch(TuneCallback):
    """Hears of every trial: has the engines forget those that end, shows how the sweep goes, keeps the accounts.

    Tune stores its callbacks beside the state of the trials; read back, ours is the one of the process that reads.
    """

    of_this_process: ClassVar[_Watch]

    def __init__(
        self,
        config: SweepConfig,
        searcher: TrialSearcher,
        steps: int,
        fleet: Fleet | None,
        display: ProgressDisplay,
    ) -> None:
        self._config = config
        self._searcher = searcher
        self._fleet = fleet
        self._display = display
        self._table = TrialTable(display, config.metric, steps)
        self._errors: dict[int, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_Watch, "of_this_process")

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Adopt the trials that Tune has after a restart, before it asks for more."""
        self._searcher.adopt(trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's process for a trial is up."""
        plan = self._searcher.plan(trial.config[TRIAL])
        self._count()
        self._table.began(plan.trial_id, plan.seed, plan.parameters)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A validation."""
        if self._config.metric in result:
            plan, value = self._searcher.plan(trial.config[TRIAL]), result[self._config.metric]
            self._table.reported(plan.trial_id, result[STEP], value)
            self._display.note(
                f"{plan.trial_id}  seed {plan.seed}  {in_words(plan.parameters)}  step {result[STEP]}  "
                f"{self._config.metric} {value:.3f}"
            )

    def end_early(self, number: int) -> None:
        """The scheduler has seen enough of a trial: it is asked to end after its step."""
        from polyray.launch.train import coordinator_name

        plan = self._searcher.plan(number)
        try:
            coordinator = ray.get_actor(coordinator_name(plan.config), namespace=NAMESPACE)
        except ValueError:
            return  # it has ended by itself
        coordinator.drain.remote()
        self._display.note(f"{plan.trial_id} ends early: others are better at this step")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that ended at its last step, or on request."""
        self._ended(trial.config[TRIAL])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that failed and is tried again."""
        plan = self._searcher.plan(trial.config[TRIAL])
        self._display.note(f"{plan.trial_id} failed and is tried again: {_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that failed for good."""
        number = trial.config[TRIAL]
        self._errors[number] = _reason(trial)
        self._ended(number)
        self._display.note(f"{self._searcher.plan(number).trial_id} failed: {self._errors[number]}")

    def trials(self) -> list[Trial]:
        """State of each trial."""
        return [self._trial(number, plan) for number, plan in enumerate(self._searcher.plans())]

    def _ended(self, number: int) -> None:
        trial = self._trial(number, self._searcher.plan(number))
        self._table.ended(trial.trial_id, trial.status)
        if self._fleet is not None:
            from polyray.orchestrator.rollout_pool import SharedPool

            assert isinstance(self._fleet.pool, SharedPool)
            self._fleet.pool.forget(self._searcher.plan(number).trial_id)
        self._count()

    def _count(self) -> None:
        total = self._config.num_trials
        self._display.update(step=total - self._searcher.num_left, total=total)

    def _trial(self, number: int, plan: TrialPlan) -> Trial:
        paths = RunPaths(trial_dir(self._config, plan.trial_id))
        lines = read_jsonl(paths.metrics)
        error = None if paths.done.is_file() else self._errors.get(number)
        status: TrialStatus = "done" if paths.done.is_file() else "failed" if error else "stopped"
        measured = [
            line[self._config.metric] for line in read_jsonl(paths.dynamics) if self._config.metric in line
        ]
        learner, rollout = plan.config.learner, plan.config.rollout
        learner_cpus = learner.num_workers * learner.cpus_per_worker
        learner_gpus = learner.num_workers * learner.use_gpu
        return Trial(
            trial_id=plan.trial_id,
            parameters=plan.parameters,
            seed=plan.seed,
            status=status,
            error=error,
            steps=len(lines),
            metric=measured[-1] if measured else None,
            seconds=read_cost(paths.cost).wall_s if paths.cost.is_file() else 0.0,
            core_hours=_hours(lines, learner_cpus, rollout.num_workers * rollout.cpus_per_worker),
            gpu_hours=_hours(lines, learner_gpus, rollout.num_workers * rollout.gpus_per_worker),
            tokens=int(sum(line["tokens_generated"] for line in lines)),
        )


def _hours(lines: list[dict[str, Any]], of_learner: float, of_engines: float) -> float:
    """Cores or GPUs while they worked for the trial: the learner's while it learnt, the engines' while its groups
    were sampled. On a shared fleet that includes waiting for the other trials' groups."""
    seconds = sum(line["learn_s"] * of_learner + line["generate_s"] * of_engines for line in lines)
    return seconds / HOUR_S


def _reason(trial: Any) -> str:
    """Error of a trial, in one line."""
    file = getattr(trial, "error_file", None)
    return reason_of(Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else "")
