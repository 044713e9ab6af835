"""The whole of polyray on one task, from the base to a report that compares objectives.

Reads a QuickstartConfig whose entries are the files of jobs that can be run alone: configs/quickstart.yaml,
configs/reference.yaml (the long version with three seeds), configs/quickstart_smollm2.yaml (a language model and
English text), or configs/quickstart_headlines.yaml (the same model, real headlines, and two learnt models of clicks).
NAME stands for configs/quickstart_NAME.yaml. Writes runs/NAME/: one run directory per SFT, arm and evaluation, and
report.html. The same command resumes a stopped run: finished parts are not repeated.

  polyray quickstart
  polyray quickstart headlines
  polyray quickstart configs/quickstart.yaml name=longer 'overrides=[learner.steps=120]'
  polyray quickstart configs/reference.yaml
  polyray quickstart configs/quickstart_smollm2.yaml
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.capacity.derived import derived_sizes
from polyray.cli.arguments import parse
from polyray.config.base import as_json
from polyray.config.curate import CurateConfig
from polyray.config.loader import load_config
from polyray.config.paths import SHIPPED, SHIPPED_ROOT, absolute, relative_to
from polyray.config.prompts import ArmSpec
from polyray.config.reward_model import TrainRewardConfig
from polyray.config.run import (
    WARM_START,
    EvaluateConfig,
    PretrainConfig,
    QuickstartConfig,
    SftConfig,
    TrainConfig,
)
from polyray.config.supervised import TaskDataSpec
from polyray.errors import EXIT_OK, ConfigError, MissingFile
from polyray.launch.sft import as_training
from polyray.runs.run_directory import RunPaths

if TYPE_CHECKING:
    from polyray.evaluation.sampling import Sample
    from polyray.launch.fleet import Fleet
    from polyray.runs.cost import CostMeter, Held
    from polyray.runs.progress import ProgressDisplay

BASE = "base"
"""A base that quickstart did not make is evaluated, too."""
PREPARATIONS = {"curate": CurateConfig, "train_reward": TrainRewardConfig}
Preparation = CurateConfig | TrainRewardConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of a quickstart for one seed, resolved and checked against each other."""

    seed: int
    sfts: dict[str, SftConfig]
    arms: dict[str, TrainConfig]
    evaluate: EvaluateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parse(
        [_file_of(argument) for argument in arguments],
        job="quickstart",
        description=__doc__,
        config_model=QuickstartConfig,
        default_config="configs/quickstart.yaml",
    )
    config = args.config
    with relative_to(config.base_dir):
        pretrain = None if config.pretrain is None else load_config(PretrainConfig, config.pretrain)
        plans = [build_plan(config, pretrain, seed) for seed in config.seeds]
        preparations = [load_config(PREPARATIONS[entry.job], entry.file) for entry in config.prepare]
    if args.check:
        first = plans[0]
        return args.print_check(
            derived=lambda: {
                "prepare": [_checked(preparation) for preparation in preparations],
                "sft": {name: as_json(sft) for name, sft in first.sfts.items()},
                "arms": {
                    name: as_json(arm) | {"sizes": derived_sizes(arm)} for name, arm in first.arms.items()
                },
                "evaluate": as_json(first.evaluate),
            },
            inputs=lambda: [_check_inputs(plan, preparations) for plan in plans],
        )
    from polyray.launch.cost import DRIVER, account, held_by_fleet, show_cost
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    for plan in plans:
        if not RunPaths(plan.evaluate.run_dir).done.is_file():
            _check_inputs(plan, preparations)
    started = time.monotonic()
    any_arm = plans[0].arms[config.baseline_arm]
    with ProgressDisplay() as display:
        with account("quickstart", config, held_by_fleet(any_arm)) as cost:
            done = 0 if pretrain is None else 1
            total = done + len(preparations) + len(plans) * (len(config.warm_starts) + len(config.arms) + 1)
            with ExitStack() as stack:
                await_model = None
                if pretrain is not None:
                    display.section("pretrain the embedded model", 1, total)
                    await_model = stack.enter_context(_pretraining(pretrain, display))
                stack.enter_context(open_ray(config.ray, display))
                for preparation in preparations:
                    done += 1
                    cost.hold(DRIVER)
                    display.section(preparation.name, done, total)
                    _prepare(preparation, display)
                for plan in plans:
                    done = _run_seed(plan, await_model, cost, display, done, total)
            cost.hold(DRIVER)
            _finish(config, plans, display, time.monotonic() - started)
        show_cost(config.run_dir, display)
    return EXIT_OK


def _file_of(argument: str) -> str:
    """The shipped file that a short name stands for; any other argument stays. ConfigError for an unknown name."""
    if not argument.isidentifier() or Path(argument).exists():
        return argument
    shipped = f"{SHIPPED}quickstart_{argument}.yaml"
    if not Path(absolute(shipped)).is_file():
        there = (SHIPPED_ROOT / SHIPPED).glob("quickstart_*.yaml")
        names = sorted(file.stem.partition("_")[2] for file in there)
        raise ConfigError(f"there is no quickstart {argument!r}; name one of {', '.join(names)}, or a file")
    return shipped


def _checked(config: Preparation) -> dict[str, Any]:
    """Configuration of a preparation, with the size of a source; the rest is made on the way."""
    from polyray.cli import curate

    sizes = {"sizes": curate.derived_sizes(config)} if isinstance(config, CurateConfig) else {}
    return as_json(config) | sizes


def _check_inputs(plan: Plan, preparations: Sequence[Preparation]) -> None:
    """Looks at the files of every part before the first one starts. Raises MissingFile for files that no preparation
    makes."""
    from polyray.launch.plan import check_evaluation, check_sft, check_training

    made = [preparation.run_dir for preparation in preparations]
    looks: list[Callable[[], None]] = [
        partial(check_sft, sft, made_before=True) for sft in plan.sfts.values()
    ]
    looks += [partial(check_training, arm, made_before=True) for arm in plan.arms.values()]
    looks.append(partial(check_evaluation, plan.evaluate, made_before=True))
    for look in looks:
        try:
            look()
        except MissingFile as missing:
            if not all(any(Path(path).is_relative_to(run) for run in made) for path in missing.paths):
                raise


def _prepare(config: Preparation, display: ProgressDisplay) -> None:
    """One preparation from wherever it stands to DONE, on the Ray that is open."""
    from polyray.cli import curate, train_reward

    if isinstance(config, CurateConfig):
        curate.run_curation(config, display)
    else:
        train_reward.run_train_reward(config, display, nullcontext())


def build_plan(config: QuickstartConfig, pretrain: PretrainConfig | None, seed: int) -> Plan:
    """The jobs of one seed. Raises ConfigError where arms could not share one fleet of engines."""
    runs_dir = config.run_dir
    paid = [] if config.prices is None else [f"prices={json.dumps(as_json(config.prices))}"]
    cache = [] if pretrain is None else [f"model.cache_dir={pretrain.cache_dir}"]
    where = [f"runs_dir={runs_dir}", f"seed={seed}", *cache, *paid]
    stem = "sft-{}" if isinstance(config.sft, dict) else "sft"
    sfts = {
        name: load_config(SftConfig, file, [*where, f"name={stem.format(name)}-seed{seed}"])
        for name, file in config.warm_starts.items()
    }
    adapters = {name: sft.run_dir / "adapter" for name, sft in sfts.items()}
    first = next(iter(adapters))
    arms = {
        name: load_config(
            TrainConfig,
            arm.train,
            [
                *where,
                *arm.overrides,
                *config.overrides,
                f"name={name}-seed{seed}",
                f"model.warm_start={adapters[arm.sft or first]}",
            ],
        )
        for name, arm in config.arms.items()
    }
    base = arms[config.baseline_arm]
    sampling = {f"sft.{name}": training for name, sft in sfts.items() if (training := as_training(sft))}
    for name, arm in ({f"arms.{name}": arm for name, arm in arms.items()} | sampling).items():
        if (arm.rollout, arm.task, arm.reward) != (base.rollout, base.task, base.reward):
            raise ConfigError(
                f"{name} and arms.{config.baseline_arm} differ in rollout, task or reward; the arms of one "
                "experiment share engines and reward service, so make them equal"
            )
    evaluate = load_config(
        EvaluateConfig,
        config.evaluate,
        [*where, f"name=evaluation-seed{seed}"],
    )
    tasks = {f"sft.{name}": sft.task for name, sft in sfts.items() if isinstance(sft.data, TaskDataSpec)}
    for name, task in (tasks | {"evaluate": evaluate.task}).items():
        if task != base.task:
            raise ConfigError(
                f"{name} and arms.{config.baseline_arm} differ in task, and `overrides` reach the arms alone; make "
                "their files equal"
            )
    directories = adapters | {name: arm.run_dir / "adapter" for name, arm in arms.items()}
    untrained: dict[str, ArmSpec] = {}
    if pretrain is None:
        asked = {name: arm for name, arm in evaluate.adapters.items() if arm.adapter is None}
        untrained = asked or {BASE: ArmSpec()}
    evaluate = evaluate.model_copy(
        update={
            "adapters": untrained | {name: ArmSpec(adapter=str(path)) for name, path in directories.items()},
            "compare_to": config.baseline_arm,
            "rollout": base.rollout,
        }
    )
    return Plan(seed, sfts, arms, evaluate)


@contextmanager
def _pretraining(config: PretrainConfig, display: ProgressDisplay) -> Iterator[Callable[[], object]]:
    """Makes the embedded model on a thread, on one core, while the block starts Ray and what else needs no model
    on the others; yields the wait for it. Ends at the next step where the block ends first."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    from polyray.learner.embedded import build_embedded

    abandoned = Event()

    def on_progress(step: int, steps: int, loss: float) -> None:
        if abandoned.is_set():
            raise RuntimeError("pretraining was abandoned: the quickstart ended before it")
        display.update(phase="training", step=step, total=steps, metrics={"loss": loss})

    with ThreadPoolExecutor(1, "pretrain") as executor:
        model = executor.submit(build_embedded, config, on_progress)
        try:
            yield model.result
        finally:
            abandoned.set()


def _run_seed(
    plan: Plan,
    await_model: Callable[[], object] | None,
    cost: CostMeter,
    display: ProgressDisplay,
    done: int,
    total: int,
) -> int:
    """SFT, every arm and the evaluation of one seed, on one fleet; returns how many parts are done by
    then."""
    from polyray.launch.cost import held_by_fleet
    from polyray.launch.fleet import fleet_owner, open_fleet, pool_sampler
    from polyray.launch.plan import plan_fleet

    any_arm = next(iter(plan.arms.values()))
    quickstart_dir = any_arm.run_dir.parent
    owner = fleet_owner(f"{quickstart_dir.name}-seed{plan.seed}", quickstart_dir)
    held = held_by_fleet(any_arm)
    cost.hold(held)

    with open_fleet(plan_fleet(any_arm, await_model), owner) as fleet:
        cost.hold(None)  # its parts have accounts of their own
        for name, sft in plan.sfts.items():
            done += 1
            display.section("SFT" + f" {name}" * (name != WARM_START) + f" (seed {plan.seed})", done, total)
            _sft(sft, fleet, held, display)
        for name, arm in plan.arms.items():
            done += 1
            display.section(f"{name} (seed {plan.seed})", done, total)
            _arm(arm, fleet, display)
        done += 1
        display.section(f"evaluation (seed {plan.seed})", done, total)
        _evaluate(plan.evaluate, held, pool_sampler(plan.evaluate, fleet.pool), display)
    return done


def _sft(config: SftConfig, fleet: Fleet, held: Held, display: ProgressDisplay) -> None:
    from polyray.launch.cost import held_by_learner, supervised_account
    from polyray.launch.plan import plan_sft
    from polyray.launch.sft import supervise
    from polyray.runs.run_directory import RunDirectory

    training = as_training(config)
    if training is not None:
        _arm(training, fleet, display)
        return
    with RunDirectory.open(config) as directory:
        if not directory.finished:
            with supervised_account(config, held + held_by_learner(config.learner)):
                supervise(plan_sft(config), directory, display)


def _arm(config: TrainConfig, fleet: Fleet, display: ProgressDisplay) -> None:
    from polyray.launch.cost import held_by, training_account
    from polyray.launch.plan import plan_training
    from polyray.launch.train import train
    from polyray.runs.run_directory import RunDirectory

    plan = plan_training(config)
    with RunDirectory.open(config) as directory:
        if not directory.finished:
            assert plan.fleet is not None
            with training_account(config, held_by(*plan.fleet.parts)) as cost:
                train(plan, directory, fleet, display, cost)


def _evaluate(config: EvaluateConfig, held: Held, sample: Sample, display: ProgressDisplay) -> None:
    from polyray.launch.cost import evaluation_account
    from polyray.launch.evaluate import check_finished, evaluate
    from polyray.runs.run_directory import RunDirectory

    with RunDirectory.open(config) as directory:
        if directory.finished:
            check_finished(config, directory)
            return
        with evaluation_account(config, held):
            evaluate(config, directory, sample, display)


def _finish(config: QuickstartConfig, plans: list[Plan], display: ProgressDisplay, seconds: float) -> None:
    from polyray.evaluation.summary import summary_table
    from polyray.report.run_report import write_report

    report = write_report([config.run_dir], config.run_dir / "report.html")
    for plan in plans:
        metrics = plan.evaluate.run_dir / "evaluation" / "metrics.json"
        display.note(f"\nseed {plan.seed}, held-out prompts:")
        display.note(summary_table(json.loads(metrics.read_text(encoding="utf-8"))))
    for name, arm in plans[0].arms.items():
        display.note(f"adapter   {arm.run_dir / 'adapter'}   ({name})")
    display.note(f"report    {Path(report)}")
    if config.serve is not None:
        adapters = json.dumps(
            [{"run": str(arm.run_dir), "name": name} for name, arm in plans[0].arms.items()]
        )
        command = [
            "polyray",
            "serve",
            config.serve,
            f"adapters={adapters}",
            f"adapter_roots=[{config.run_dir}]",
        ]
        display.note(f"choose    {shlex.join(command)}")
    display.note(f"took      {seconds / 60:.1f} min")
