"""A sweep from its configuration to DONE: trials, evaluation of their adapters, results, on a Ray of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.config.base import as_json
from polyray.config.evaluation import SMALLER_IS_BETTER
from polyray.config.loader import load_config
from polyray.config.paths import relative_to
from polyray.config.prompts import ArmSpec
from polyray.config.run import WARM_START, EvaluateConfig
from polyray.config.sweep import ARM, SweepConfig
from polyray.errors import ConfigError, LearnerError, MissingFiles
from polyray.sweeps.plan import TrialPlan, trial_dir

if TYPE_CHECKING:
    from polyray.launch.fleet import Fleet
    from polyray.report.sweep.trials import Trial
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

READ = (
    "model",
    "task",
    "reward",
    "second_opinion",
    "diversity",
    "rollout",
    "tracking",
    "evaluation",
    "dynamics",
)
"""Sections of a training run that its check of inputs reads."""


def run_sweep(config: SweepConfig, plans: list[TrialPlan]) -> None:
    """Run the sweep of a configuration from its current state to DONE, on its own Ray."""
    evaluation = evaluation_of(config, plans, [plan.trial_id for plan in plans])

    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory

    with ProgressDisplay() as display, RunDirectory.open(config) as directory:
        # A sweep has its results without the trials that failed; the next start tries those again.
        if not directory.finished or failed_trials(config):
            check_inputs(config, plans)
            sweep(config, plans, evaluation, directory, display)
        _show(config, directory, display)


def failed_trials(config: SweepConfig) -> list[dict[str, Any]]:
    """Lines of trials.jsonl."""
    from polyray.runs.jsonl import read_jsonl

    return [line for line in read_jsonl(config.run_dir / "trials.jsonl") if line["status"] == "failed"]


def check_inputs(config: SweepConfig, plans: list[TrialPlan], *, only_look: bool = False) -> None:
    """Looks at the inputs of all trials and of the evaluation at the end; trials that read the same files are looked
    at once."""
    from polyray.launch.plan import check_evaluation, check_training, plan_training

    missing = MissingFiles()
    different = {json.dumps([as_json(plan.config)[key] for key in READ]): plan for plan in plans}
    for plan in different.values():
        with missing.noted():
            check_training(plan.config) if only_look else plan_training(plan.config)
    evaluation = evaluation_of(config, plans, [])
    check_axes(config, evaluation)
    with missing.noted():
        check_evaluation(evaluation)
    missing.raise_if_any()


def check_axes(config: SweepConfig, evaluation: EvaluateConfig) -> None:
    """Raises ConfigError for a quality, diversity or criterion that the evaluation will not have."""
    spec = config.evaluation
    for key, name in (
        ("quality", spec.quality),
        ("diversity", spec.diversity),
        ("criterion", spec.criterion),
    ):
        if name is None:
            continue
        if name in SMALLER_IS_BETTER:
            raise ConfigError(
                f"evaluation.{key}={name!r} is better when it is small, and a sweep looks for large values; choose "
                "another one, e.g. semantic_distance"
            )
        try:
            evaluation.evaluation.check_value(f"evaluation.{key}", name)
        except ValueError as error:
            raise ConfigError(f"{error} of {spec.config}") from None


def sweep(
    config: SweepConfig,
    plans: list[TrialPlan],
    evaluation: EvaluateConfig,
    directory: RunDirectory,
    display: ProgressDisplay,
) -> None:
    """Trials, evaluation, results, on a Ray of its own; DONE at the end."""
    from contextlib import nullcontext

    from polyray.launch.cost import DRIVER, account, held_by_fleet
    from polyray.launch.fleet import open_ray
    from polyray.runs.cost import Held

    held = held_by_fleet(plans[0].config) if config.fleet.mode == "shared" else Held()
    with account("sweep", config, held) as cost:
        with open_ray(config.ray, display, config.run_dir):
            from polyray.sweeps.run import check_resources, run_trials, shared_fleet

            check_resources(config, plans)
            display.section("trials", 1, 2)
            with shared_fleet(config, plans) if config.fleet.mode == "shared" else nullcontext() as fleet:
                cost.hold(None)  # trials and the evaluation have accounts of their own
                trials = run_trials(config, plans, fleet, directory, display)
                finished = [trial.trial_id for trial in trials if trial.status == "done"]
                if not finished:
                    failed = next((trial for trial in trials if trial.error), trials[0])
                    raise LearnerError(
                        f"none of the {len(trials)} trials came to its end; {failed.trial_id}: {failed.error}"
                    )
                display.section("evaluation", 2, 2)
                _evaluate(evaluation_of(config, plans, finished), fleet, display)
        cost.hold(DRIVER)
        directory.mark_done(_conclude(config, plans, trials, evaluation, directory))


def evaluation_of(config: SweepConfig, plans: list[TrialPlan], trial_ids: Sequence[str]) -> EvaluateConfig:
    """The evaluation of these trials' adapters and of the warm start, asked and sampled as they were trained."""
    trial = plans[0].config
    where = [f"runs_dir={json.dumps(str(config.run_dir))}", "name=evaluation", f"seed={config.seed}"]
    with relative_to(config.base_dir):
        file = load_config(EvaluateConfig, config.evaluation.config, [*config.evaluation.overrides, *where])
    arms: dict[str, str | None] = {WARM_START: trial.model.warm_start}
    arms |= {trial_id: str(trial_dir(config, trial_id) / "adapter") for trial_id in trial_ids}
    return file.model_copy(
        update={
            "adapters": {name: ArmSpec(adapter=adapter) for name, adapter in arms.items()},
            "compare_to": WARM_START,
            "evaluation": file.evaluation.model_copy(update={"comparisons": "baseline"}),
            "rollout": trial.rollout,
            "model": trial.model,
            "task": trial.task,
            "reward": trial.reward,
            "prices": config.prices or file.prices,
        }
    )


def _evaluate(config: EvaluateConfig, fleet: Fleet | None, display: ProgressDisplay) -> None:
    from polyray.launch.cost import evaluation_account
    from polyray.launch.evaluate import check_finished, evaluate
    from polyray.launch.fleet import open_sampler, pool_sampler
    from polyray.launch.plan import plan_evaluation
    from polyray.runs.run_directory import RunDirectory

    _forget_other_arms(config)
    with RunDirectory.open(config) as directory:
        if directory.finished:
            check_finished(config, directory)
            return
        with evaluation_account(config):
            if fleet is not None:
                evaluate(config, directory, pool_sampler(config, fleet.pool), display)
                return
            with open_sampler(config, plan_evaluation(config)) as sample:
                evaluate(config, directory, sample, display)


def _forget_other_arms(config: EvaluateConfig) -> None:
    """An earlier start may have been interrupted while it evaluated, and a trial may have come to its end since."""
    from polyray.runs.run_directory import RunPaths

    saved = RunPaths(config.run_dir).config
    if saved.is_file():
        arms = json.loads(saved.read_text(encoding="utf-8"))["adapters"]
        if arms != as_json(config)["adapters"]:
            shutil.rmtree(config.run_dir)


def _conclude(
    config: SweepConfig,
    plans: list[TrialPlan],
    trials: Sequence[Trial],
    evaluation: EvaluateConfig,
    directory: RunDirectory,
) -> dict[str, Any]:
    """results.json, report.html and best/; what DONE says."""
    from polyray.evaluation.pipeline import text_metrics_of
    from polyray.evaluation.sample_source import SampleFile
    from polyray.evaluation.sampling import EvaluationFiles
    from polyray.report.sweep.report import write_sweep_report
    from polyray.report.sweep.results import sweep_results
    from polyray.runs.atomic import atomic_write_json
    from polyray.sweeps.search import search_note
    from polyray.tasks import build_task

    root, spec = directory.paths.root, config.evaluation
    files = EvaluationFiles(evaluation.run_dir / "evaluation")
    with SampleFile(files.samples) as source:
        text_metrics = text_metrics_of(evaluation, build_task(evaluation.task), source)
    results = sweep_results(
        trials,
        files.directory,
        {trial.trial_id: trial_dir(config, trial.trial_id) for trial in trials},
        axis=ARM if config.arms else config.axis,
        objective=plans[0].config.task.type if config.arms else _objective(plans[0]),
        baseline=list(config.arms).index(config.baseline)
        if isinstance(config.baseline, str)
        else config.baseline,
        quality=spec.quality,
        diversity=spec.diversity,
        ks=evaluation.evaluation.ks,
        margin=spec.margin,
        seed=config.seed,
        criterion=spec.criterion,
        mode=config.mode,
        text_metrics=text_metrics,
        search=search_note(config, trials),
    )
    atomic_write_json(root / "results.json", results)
    write_sweep_report(results, root / "report.html")
    best = results["recommendation"]["adapter"]
    shutil.copytree(trial_dir(config, best) / "adapter", root / "best", dirs_exist_ok=True)
    return {"report": str(root / "report.html"), "best": str(root / "best"), "trial": best}


def _objective(plan: TrialPlan) -> str:
    """Objective of the swept weight, in words."""
    algorithm = plan.config.algorithm
    return " ".join(filter(None, [algorithm.type, getattr(algorithm, "objective", "")]))


def _show(config: SweepConfig, directory: RunDirectory, display: ProgressDisplay) -> None:
    from polyray.launch.cost import show_cost

    results = json.loads((directory.paths.root / "results.json").read_text(encoding="utf-8"))
    summary = directory.summary()
    display.note(f"rule      {results['recommendation']['rule']}")
    display.note(
        f"adapter   {summary['best']}   ({summary['trial']}: {results['recommendation']['setting']})"
    )
    display.note(f"report    {Path(summary['report'])}")
    if failed := failed_trials(config):
        display.note(
            f"failed    {len(failed)} of {config.num_trials} trials. The results are those of the others; the same "
            "command tries the failed ones again"
        )
    show_cost(directory.paths.root, display)
