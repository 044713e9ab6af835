"""Warm start: LoRA fine-tuning with cross-entropy on the task's demonstrations, on Ray Train.

Reads an SftConfig (configs/sft/), writes runs/NAME/: config.json, metrics.jsonl, checkpoints/, and at the end
adapter/ (PEFT format) and DONE. jobs.train continues from it: model.warm_start=runs/NAME/adapter. Starting
the same command again goes on from the last checkpoint.

  python -m jobs.sft configs/sft/hidden_trap_grid.yaml
  python -m jobs.sft configs/sft/hidden_trap_grid.yaml name=short learner.steps=50 --check
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.cli import parse, run
from polyray.config.run import SftConfig

if TYPE_CHECKING:
    from polyray.observability.progress import ProgressDisplay
    from polyray.observability.run_directory import RunDirectory

POLL_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="sft", description=__doc__, config_model=SftConfig)
    config = args.config
    if args.check:
        rows = config.demonstrations_per_step
        return args.print_check(
            derived={
                "demonstrations_in_run": rows * config.learner.steps,
                "max_tokens_per_step": rows * config.max_tokens,
                "logical_cpus_needed": config.learner.num_workers * config.learner.cpus_per_worker,
            }
        )
    from jobs.fleet import open_ray, training_base
    from polyray.observability.progress import ProgressDisplay
    from polyray.observability.run_directory import RunDirectory

    with ProgressDisplay() as display:
        training_base(config.model)
        with RunDirectory.open(config) as directory:
            if not directory.finished:
                with open_ray(config.ray, display):
                    supervise(config, directory, display)
        display.note(f"adapter   {directory.paths.adapter}\nmetrics   {directory.paths.metrics}")
    return 0


def supervise(config: SftConfig, directory: RunDirectory, display: ProgressDisplay) -> None:
    """One SFT run on the Ray this process is connected to, from its newest checkpoint to DONE."""
    from threading import Thread

    from jobs.fleet import training_base
    from polyray.actors.resources import check_placement
    from polyray.learner.supervised_loop import demonstration_rows
    from polyray.observability.jsonl import read_jsonl

    check_placement(
        config.learner.num_workers * config.learner.cpus_per_worker,
        config.learner.num_workers if config.learner.use_gpu else 0,
        "raise ray.num_cpus (logical CPUs), or lower learner.num_workers",
    )
    row_of, _ = demonstration_rows(config, training_base(config.model)[0])
    row_of(0)  # a task without demonstrations says so here, not in a worker
    outcome: dict[str, BaseException] = {}
    thread = Thread(target=_fit, args=(config, directory, outcome), name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        lines = read_jsonl(directory.paths.metrics)
        display.update(
            phase="fine-tuning" if lines else "starting the learner",
            step=len(lines) or None,
            total=config.learner.steps,
            metrics=lines[-1] if lines else None,
        )
    if "error" in outcome:
        raise outcome["error"]
    directory.mark_done({"adapter": str(directory.paths.adapter), "steps": config.learner.steps})


def _fit(config: SftConfig, directory: RunDirectory, outcome: dict[str, BaseException]) -> None:
    from jobs.fleet import fit_trainer, worker_arguments
    from polyray.actors.supervised_worker import supervised_loop

    fit_trainer(supervised_loop, worker_arguments(config, directory), config.learner, directory, outcome)


if __name__ == "__main__":
    run(main)
