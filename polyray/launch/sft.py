"""A supervised run from its configuration to DONE."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyray.capacity.bundles import learner_ranks
from polyray.capacity.micro_batch import micro_batch_line
from polyray.capacity.placement import supervised_estimate
from polyray.capacity.threads import learner_threads
from polyray.config.loader import build_config
from polyray.config.run import SftConfig, TrainConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.config.supervised_term import PolychromicSftSpec, SupervisedTermSpec
from polyray.launch.train import run_training

if TYPE_CHECKING:
    from polyray.launch.plan import RunPlan
    from polyray.launch.trainer import TrainWorker
    from polyray.learner.demonstrations import Demonstrations
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory


def run_sft(config: SftConfig) -> None:
    """The run of a configuration from wherever it stands to DONE, on a Ray of its own."""
    training = as_training(config)
    if training is not None:
        run_training(training)
        return
    from polyray.launch.cost import show_cost, supervised_account
    from polyray.launch.fleet import open_ray
    from polyray.launch.plan import plan_sft
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory, RunPaths

    with ProgressDisplay() as display:
        plan = None if RunPaths(config.run_dir).done.is_file() else plan_sft(config)
        with RunDirectory.open(config) as directory:
            if not directory.finished:
                plan = plan or plan_sft(config)
                with supervised_account(config), open_ray(config.ray, display, config.run_dir):
                    supervise(plan, directory, display)
        display.note(f"adapter   {directory.paths.adapter}\nmetrics   {directory.paths.metrics}")
        show_cost(directory.paths.root, display)


def as_training(config: SftConfig) -> TrainConfig | None:
    """The training run that polychromic SFT is; None for objectives without samples."""
    spec = config.objective
    if not isinstance(spec, PolychromicSftSpec):
        return None
    supervised = SupervisedTermSpec(
        demonstrations_per_step=config.demonstrations_per_step, max_tokens=config.max_tokens
    )
    shared = {
        name: getattr(config, name)
        for name in (
            "name",
            "base_dir",
            "runs_dir",
            "seed",
            "ray",
            "prices",
            "logging",
            "model",
            "task",
            "learner",
            "dynamics",
        )
    }
    if "monitors" in config.model_fields_set:
        shared["monitors"] = config.monitors
    own = {name: getattr(spec, name) for name in ("rollout", "delivery", "reward", "diversity")}
    values = TrainConfig.model_construct(
        **shared, **own, algorithm=spec.as_algorithm(), supervised=supervised
    ).model_dump(mode="json")
    return build_config(TrainConfig, values, "objective polychromic")


def supervise(plan: RunPlan[SftConfig], directory: RunDirectory, display: ProgressDisplay) -> None:
    """One SFT run on the Ray this process is connected to, from its newest checkpoint to DONE."""
    from functools import partial

    from polyray.cluster.session import check_placement
    from polyray.launch.watch import watch_workers
    from polyray.learner.demonstrations import load_demonstrations
    from polyray.models.tokenizer import load_tokenizer

    config = plan.config
    check_placement([learner_ranks(config.learner)], "learner.num_workers or cpus_per_worker")
    data = load_demonstrations(config, load_tokenizer(plan.base.directory))
    if data.dropped or data.truncated:
        display.note(f"rows above max_tokens={config.max_tokens}: {_too_long(data)}")
    steps = watch_workers(
        directory.paths,
        partial(_fit, plan, directory),
        display,
        phases=("starting the learner", "fine-tuning"),
        num_steps=data.num_steps,
        result=directory.paths.adapter,
    )
    if steps < data.num_steps:
        display.note(f"stopped early after step {steps} of {data.num_steps}; adapter/ is the best one")
    summary = {"adapter": str(directory.paths.adapter), "steps": steps}
    directory.mark_done({**summary, "rows_dropped": data.dropped, "rows_truncated": data.truncated})


def derived_sizes(config: SftConfig) -> dict[str, Any]:
    """Sizes for `--check`; reads and checks the rows without encoding them."""
    rows_per_step, steps = config.demonstrations_per_step, config.learner.steps
    sizes: dict[str, Any] = {}
    if isinstance(config.data, JsonlDataSpec):
        from polyray.data.records import read_demonstrations

        training, validation = read_demonstrations(config.data)
        if config.epochs is not None:
            steps = math.ceil(config.epochs * len(training) / rows_per_step)
        sizes = {
            "rows": len(training),
            "validation_rows": min(len(validation), config.evaluation.num_rows),
            "epochs": steps * rows_per_step / len(training),
        }
    on_gpus = supervised_estimate(config)
    return {
        **sizes,
        "steps": steps,
        "demonstrations_in_run": rows_per_step * steps,
        "max_tokens_per_step": rows_per_step * config.max_tokens,
        "micro_batch": micro_batch_line(config),
        "learner_threads": "{}: {}".format(*learner_threads(config, config.model)),
        "logical_cpus_needed": config.learner.num_workers * config.learner.cpus_per_worker,
        **({"gpu_estimate": on_gpus} if on_gpus else {}),
    }


def _too_long(data: Demonstrations) -> str:
    return f"{data.dropped} dropped, {data.truncated} truncated, {data.num_rows} in an epoch"


def _fit(plan: RunPlan[SftConfig], directory: RunDirectory, outcome: dict[str, BaseException]) -> None:
    from polyray.launch.trainer import fit_trainer

    config, arguments = plan.worker_arguments()
    fit_trainer(sft_loop, config, arguments, directory, outcome)


def sft_loop(worker: TrainWorker) -> None:
    """The SFT loop of one rank, wrapped for data parallelism. `worker.arguments`: model_dir, dtype."""
    import ray.train.torch

    from polyray.learner.supervised_loop import SupervisedRun, run_supervised

    run = SupervisedRun(
        config=worker.config,
        model_dir=Path(worker.arguments["model_dir"]),
        run_dir=worker.run_dir,
        dtype=worker.arguments["dtype"],
        device=worker.device,
        rank=worker.rank,
        world_size=worker.world_size,
    )
    whole = run.config.learner.sharding == "none"  # ranks that share a base sum their gradients themselves
    parallel = ray.train.torch.prepare_model if run.world_size > 1 and whole else lambda model: model
    run_supervised(run, parallel, lambda metrics: ray.train.report(metrics))
