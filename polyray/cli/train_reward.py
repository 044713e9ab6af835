"""Trains an engagement reward model on Ray Train, from records or preference pairs.

Reads a TrainRewardConfig (configs/reward/), writes runs/NAME/: config.json, metrics.jsonl, checkpoints/, best/,
embeddings.safetensors (a cache: it may be deleted), and at the end model/ and DONE. A reward of type engagement loads
model/; its README.md is its card. Ctrl-C or SIGTERM ends it after the current step, with a checkpoint; the same
command resumes from the last one.

  data         data.path: a run of polyray curate, or a file with one object a line, either
               {"prompt": "...", "completion": "...", "engagement": 12} (more fields: polyray curate --help), or
               {"prompt": "...", "chosen": "...", "rejected": "..."}, where each may be a list of messages;
               data.source: a raw file (Stack Exchange threads, headline tests, an export), divided here
  two models   data.half=train for RL, data.half=eval to check it by: they share no thread, and
               encoder.name may differ. Nothing should grade what was optimised against it
  objective    pairwise (Bradley-Terry within one prompt, weighted by how sure the difference is), regression
               (log-odds of a click, or a transform of counts), both
  encoder      frozen: texts are embedded once, then the head takes seconds; encoder.fine_tune=true: slow, for GPUs
  confounders  age and position of a completion: model (terms beside the text in training), remove (only pairs alike
               in both), ignore
  stopping     on the validation part; the model is the best one, its temperature is fitted there, too

  polyray train_reward configs/reward/reward_train.yaml
  polyray train_reward configs/reward/reward_eval.yaml --check
  polyray train_reward configs/reward/my_pairs.yaml data.path=pairs.jsonl name=mine
  polyray evaluate reward CONFIG         # held-out figures, baselines, probes
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from polyray.capacity.bundles import learner_ranks
from polyray.cli.arguments import parse
from polyray.config.reward_model import TrainRewardConfig

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay
    from polyray.runs.run_directory import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parse(argv, job="train_reward", description=__doc__, config_model=TrainRewardConfig)
    config = args.config
    if args.check:
        return args.print_check(derived=lambda: derived_sizes(config), inputs=lambda: check_inputs(config))
    from polyray.launch.fleet import open_ray
    from polyray.runs.progress import ProgressDisplay

    with ProgressDisplay() as display:
        run_train_reward(config, display, open_ray(config.ray, display, config.run_dir))
    return 0


def run_train_reward(
    config: TrainRewardConfig, display: ProgressDisplay, ray: AbstractContextManager[None]
) -> None:
    """A reward model from wherever it stands to DONE; `ray` is entered where there is something to train."""
    from polyray.launch.cost import account, held_by_learner, show_cost
    from polyray.runs.run_directory import RunDirectory, RunPaths

    if not RunPaths(config.run_dir).done.is_file():
        check_inputs(config)
    with RunDirectory.open(config) as directory:
        if not directory.finished:
            with account("train_reward", config, held_by_learner(config.learner)), ray:
                train_reward(config, directory, display)
        summary = directory.summary()
        display.note(
            f"model     {summary['model']}\nversion   {summary['version']}\n"
            f"accuracy  {summary['accuracy']:.4f} on {summary['pairs']} validation pairs "
            f"(length alone {summary['accuracy_of_length_alone']:.4f})"
        )
        show_cost(directory.paths.root, display)


def check_inputs(config: TrainRewardConfig) -> None:
    """Check data and encoder before anything starts. Raises ConfigError and DataError."""
    from polyray.models.embedder import encoder_directory
    from polyray.shelf.preferences.reward_model.data import load_training_data

    encoder_directory(config.encoder.name)
    load_training_data(config)


def train_reward(config: TrainRewardConfig, directory: RunDirectory, display: ProgressDisplay) -> None:
    """One reward model on the Ray this process is connected to, from its newest checkpoint to DONE."""
    from functools import partial

    from polyray.cluster.session import check_placement
    from polyray.launch.watch import watch_workers
    from polyray.shelf.preferences.reward_model import read_card
    from polyray.shelf.preferences.reward_model.data import load_training_data, num_steps_of

    check_placement([learner_ranks(config.learner)], "learner.num_workers or cpus_per_worker")
    data = load_training_data(config)
    num_steps = num_steps_of(config, data)
    display.note(", ".join(f"{name} {count}" for name, count in data.counts.items()))
    model = directory.paths.root / "model"
    steps = watch_workers(
        directory.paths,
        partial(_fit, config, directory),
        display,
        phases=("starting, embedding the texts", "training"),
        num_steps=num_steps,
        result=model,
    )
    card = read_card(model)
    if steps < num_steps:
        display.note(
            f"stopped early after step {steps} of {num_steps}; the model is that of step {card.best_step}"
        )
    validation = card.validation
    directory.mark_done(
        {
            "model": str(model),
            "version": card.version,
            "steps": steps,
            "best_step": card.best_step,
            **{name: validation[name] for name in ("accuracy", "accuracy_of_length_alone", "log_loss")},
            "pairs": int(validation["pairs"]),
        }
    )


def derived_sizes(config: TrainRewardConfig) -> dict[str, Any]:
    """Sizes for `--check`; reads, divides and pairs the data."""
    from polyray.shelf.preferences.reward_model.data import load_training_data, num_steps_of

    data = load_training_data(config)
    return {
        **data.counts,
        "texts_to_embed": len(data.texts),
        "steps": num_steps_of(config, data),
        "data_sha256": data.sha256,
        "logical_cpus_needed": config.learner.num_workers * config.learner.cpus_per_worker,
    }


def _fit(config: TrainRewardConfig, directory: RunDirectory, outcome: dict[str, BaseException]) -> None:
    from polyray.launch.trainer import fit_trainer
    from polyray.shelf.preferences.reward_model.training import reward_model_loop

    fit_trainer(reward_model_loop, config, {}, directory, outcome)
