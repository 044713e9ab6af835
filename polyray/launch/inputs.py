"""Check the files that a run reads, before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path

from polyray.config.model import LoraSpec, ModelSpec
from polyray.config.run import SftConfig, TrainConfig
from polyray.config.supervised import JsonlDataSpec
from polyray.errors import MissingFile, MissingFiles
from polyray.models.adapter_files import read_adapter, read_warm_start
from polyray.models.base_files import base_fingerprint, is_hub_name, local_model_dir, resolve_model_dir


def check_base(model: ModelSpec, missing: MissingFiles, only_look: bool) -> Path | None:
    """Reads the fingerprints of the base and its warm start; returns the directory of the base if it is here.

    Raises ConfigError for what cannot be used; `missing` notes what is not there. With `only_look` a base of the hub
    that is not on this machine is named on stderr, not fetched.
    """
    model_dir: Path | None = None
    with missing.noted():
        if not (only_look and is_hub_name(model.path)):
            model_dir = resolve_model_dir(model)
        elif (model_dir := local_model_dir(model)) is None:
            print(
                f"note: model.path={model.path} is not on this machine; the job fetches it", file=sys.stderr
            )
    if model.warm_start is not None:
        continues = model.lora if model.warm_start_mode == "continue" else None
        check_adapter(Path(model.warm_start), model_dir, missing, continues)
    return model_dir


def check_adapter(
    directory: Path, model_dir: Path | None, missing: MissingFiles, continues: LoraSpec | None = None
) -> None:
    """Reads an adapter of the base in `model_dir`; `continues` is the configuration that trains it further.

    Raises ConfigError for one that does not fit; `missing` notes one that is not there.
    """
    with missing.noted():
        if model_dir is None:
            if not directory.exists():
                raise MissingFile(f"{directory}: no such file or directory; give the directory of an adapter")
        elif continues is not None:
            read_warm_start(directory, base_fingerprint(model_dir), continues)
        else:
            read_adapter(directory, base_fingerprint(model_dir))


def check_training(config: TrainConfig, *, only_look: bool = False, made_before: bool = False) -> None:
    """Everything that can be wrong with files, before anything starts: ConfigError or DataError.

    `only_look` is for --check: nothing is fetched or written, and no key is needed. `made_before`: the job itself
    makes base and warm start first.
    """
    from polyray.periodic_eval.validation import validation_prompts
    from polyray.rewards import plan_reward
    from polyray.rollout.vllm_build import check_build_for
    from polyray.runs.trackers.running import check_trackers
    from polyray.tasks import build_task

    if config.rollout.engine_kind != "simulated":
        check_build_for(config.rollout.gpus_per_worker, config.rollout.node_labels)
    check_trackers(config.tracking)
    if config.learner.checkpoint_storage is not None and not only_look:
        from polyray.learner.checkpoint_storage import open_storage

        open_storage(config.learner.checkpoint_storage)

    missing = MissingFiles()
    model_dir = None if made_before else check_base(config.model, missing, only_look)
    with missing.noted():
        plan_reward(
            config.reward, config.task, config.diversity, config.second_opinion, needs_keys=not only_look
        )
    with missing.noted():
        task = build_task(config.task)
        task.training_prompt(0, config.seed)
        if config.rounds is not None:
            validation_prompts(config.rounds, task, config.seed)
    missing.raise_if_any()
    if model_dir is not None:
        from polyray.launch.prompt_check import check_run_prompts  # imports torch

        check_run_prompts(config, task, model_dir)


def check_supervised(config: SftConfig, *, only_look: bool = False) -> None:
    """Everything that can be wrong with files, before anything starts: ConfigError or DataError.

    `only_look` is for --check: nothing is fetched or written.
    """
    from polyray.data.records import read_demonstrations
    from polyray.tasks import build_task

    missing = MissingFiles()
    model_dir = check_base(config.model, missing, only_look)
    with missing.noted():
        if isinstance(config.data, JsonlDataSpec):
            read_demonstrations(config.data)
        else:
            build_task(config.task).demonstration(0, config.seed)
    missing.raise_if_any()
    if model_dir is not None:
        from polyray.launch.prompt_check import usable_tokenizer  # imports torch
        from polyray.learner.demonstrations import check_rows, load_demonstrations

        check_rows(config, load_demonstrations(config, usable_tokenizer(model_dir)))
