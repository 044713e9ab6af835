"""A training run from its configuration to DONE: checks, Ray, fleet, learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyray.config.run import TrainConfig

if TYPE_CHECKING:
    from polyray.launch.fleet import Fleet
    from polyray.launch.plan import RunPlan
    from polyray.runs.cost import CostMeter
    from polyray.runs.progress import Display, ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

CALL_TIMEOUT_S = 120.0


def run_training(config: TrainConfig) -> None:
    """The run of a configuration from wherever it stands to DONE, on a Ray and a fleet of its own."""
    from polyray.launch.cost import held_by, show_cost, training_account
    from polyray.launch.fleet import fleet_owner, open_fleet, open_ray
    from polyray.launch.plan import plan_training
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths

    with ProgressDisplay() as display:
        # Checked before the directory is made; a run that has DONE may be asked for more steps.
        plan = None if RunPaths(config.run_dir).done.is_file() else plan_training(config)
        with RunDirectory.open(config) as directory:
            if not directory.finished:
                plan = plan or plan_training(config)
                assert plan.fleet is not None
                with (
                    training_account(plan.config, held_by(*plan.fleet.parts)) as cost,
                    open_ray(plan.config.ray, display, plan.config.run_dir),
                    open_fleet(plan.fleet, fleet_owner(plan.config.name, plan.config.run_dir)) as fleet,
                ):
                    train(plan, directory, fleet, display, cost)
        _show_outcome(directory, display)
        display.note(f"report    polyray report {directory.paths.root}")
        show_cost(directory.paths.root, display)


def train(
    plan: RunPlan[TrainConfig],
    directory: RunDirectory,
    fleet: Fleet,
    display: Display,
    cost: CostMeter | None = None,
) -> None:
    """One run on a fleet, from its newest checkpoint to DONE, with its account in `cost`.

    Raises what ended it, if something did.
    """
    from functools import partial

    import ray

    from polyray.config.base import as_json
    from polyray.launch.watch import watch_training
    from polyray.runs.history import check_history
    from polyray.runs.jsonl import read_jsonl
    from polyray.runs.logging import log_as
    from polyray.runs.trackers.running import open_trackers

    config = plan.config
    log_as("driver", config.name)
    display.update(phase="starting the learner", total=config.learner.steps)
    if config.delivery.mode == "auto" and plan.sync is not None:
        display.note(f"weight sync: {plan.sync.mode}; {plan.sync.reason}")
    if config.rollout.sleep_between_steps:  # else the learner would find its GPU full
        display.update(phase="starting the engine")
        fleet.pool.sleep()
    elif config.rollout.shares_gpus:  # else an engine would take what the learner allocates for its own need
        display.update(phase="starting the engines")
        fleet.pool.wait_until_ready()
    with open_trackers(config.tracking, config.name, directory.paths, as_json(config)):
        coordinator = _start_coordinator(config, fleet)
        try:
            watch_training(config, directory, coordinator, partial(_fit, plan, directory), display, cost)
            fleet.pool.adopt(ray.get(coordinator.workers.remote(), timeout=CALL_TIMEOUT_S))
        finally:
            ray.kill(coordinator)
    check_history(
        read_jsonl(directory.paths.ledger),
        batch=config.rollout.prompts_per_step,
        max_staleness=config.rollout.max_staleness,
        steps=len(read_jsonl(directory.paths.metrics)),
    )
    directory.mark_done(_summary(config, directory))


def _summary(config: TrainConfig, directory: RunDirectory) -> dict[str, Any]:
    """Content of DONE: the adapter, the steps and why they ended, the best version."""
    from polyray.periodic_eval import EarlyStopping
    from polyray.runs.jsonl import read_jsonl

    paths = directory.paths
    steps = len(read_jsonl(paths.metrics))
    summary: dict[str, Any] = {"adapter": str(paths.adapter), "steps": steps}
    if config.evaluation is None:
        return summary
    metric = config.evaluation.best_metric
    results = [(line["version"], line.get(metric)) for line in read_jsonl(paths.dynamics)]
    stopping = EarlyStopping.of(config.evaluation, results)
    if stopping.is_over:
        summary["ended"] = stopping.why_over(metric)
    if stopping.best is not None:
        summary["best"] = {
            "adapter": str(paths.best),
            "version": stopping.best.version,
            metric: stopping.best.value,
        }
    return summary


def _show_outcome(directory: RunDirectory, display: ProgressDisplay) -> None:
    """Print the files of a finished run and the result of its validation."""
    paths, summary = directory.paths, directory.summary()
    if "ended" in summary:
        display.note(f"ended     after {summary['steps']} steps, {summary['ended']}")
    display.note(f"adapter   {paths.adapter}\nmetrics   {paths.metrics}")
    if "best" in summary:
        display.note(f"best      {paths.best} (version {summary['best']['version']})")


def _start_coordinator(config: TrainConfig, fleet: Fleet) -> Any:
    from polyray.orchestrator.coordinator import start_coordinator
    from polyray.orchestrator.rollout_actor import Scoring

    distances = config.diversity.source != "task_class" or config.algorithm.needs_distances
    scoring = Scoring(
        fleet.reward.app_name,
        config.reward.service,
        distances,
        config.algorithm,
        config.rollout.group_timeout_s,
        fleet.remote,
    )
    return start_coordinator(coordinator_name(config), config, fleet.pool, scoring)


def coordinator_name(config: TrainConfig) -> str:
    """The actor's name: one per run directory."""
    return f"{config.run_dir.as_posix().replace('/', '.')}-coordinator"


def _fit(plan: RunPlan[TrainConfig], directory: RunDirectory, outcome: dict[str, BaseException]) -> None:
    """Ray Train to its end, in a thread; what it raises goes into `outcome`."""
    from polyray.launch.rl_worker import rl_loop
    from polyray.launch.trainer import TellCoordinator, fit_trainer

    config, arguments = plan.worker_arguments()
    name = coordinator_name(config)
    tell = TellCoordinator(name, config.rollout)
    fit_trainer(rl_loop, config, arguments | {"coordinator": name}, directory, outcome, [tell])
