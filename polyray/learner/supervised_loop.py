"""The SFT loop, without Ray: LoRA on demonstrations, evaluated, checkpointed and resumable.

Which rows a step sees, and what dropout draws, follow from (seed, step, rank) alone, so a resumed run is the
same run. The step itself is supervised.py, validation and samples are supervised_eval.py.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from polyray.config.periodic_eval import EvalSchedule
from polyray.config.run import SftConfig
from polyray.config.supervised import BaLoraSpec
from polyray.errors import ConfigError
from polyray.learner.demonstrations import Demonstrations, load_demonstrations
from polyray.learner.monitors import Monitors, stop_reason
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.reduce import from_rank_0, mean_over_ranks
from polyray.learner.state import newest_checkpoint, restore_checkpoint, save_checkpoint
from polyray.learner.stopping import agreed_to_stop
from polyray.learner.supervised import demonstration_batches, row_batches, supervised_step
from polyray.learner.supervised_eval import (
    SupervisedDynamics,
    validation_loss,
    write_samples,
)
from polyray.learner.supervised_objectives import build_batch_loss
from polyray.models.adapter_files import read_adapter, start_manifest, write_adapter
from polyray.models.base_files import base_fingerprint
from polyray.models.checkpointing import checkpoint_layers
from polyray.models.loading import load_base
from polyray.models.lora import attach_adapter, save_adapter
from polyray.models.packing import PACKABLE_MODEL_TYPES, is_packable
from polyray.models.pissa import save_plain_lora, start_from_principal_components
from polyray.models.sharding import shard_base
from polyray.models.tokenizer import load_tokenizer
from polyray.periodic_eval import EarlyStopping
from polyray.runs.jsonl import JsonlWriter, before_step, cut_jsonl, read_jsonl
from polyray.seeds import sample_seed


@dataclass(frozen=True, slots=True)
class SupervisedRun:
    """Configuration, place and rank of an SFT run.

    Example:
        SupervisedRun(config=SftConfig(name="sft"), model_dir=Path("/models/x"), run_dir=Path("runs/sft"),
                      dtype="float32", device=torch.device("cpu"), rank=0, world_size=1)
    """

    config: SftConfig
    model_dir: Path
    run_dir: Path
    dtype: str
    device: torch.device
    rank: int
    world_size: int


@dataclass(slots=True)
class _Training:
    """State that `_start` prepares; `step` and `stopping` advance."""

    model: Any
    optimizer: Optimizer
    scheduler: LambdaLR
    tokenizer: PreTrainedTokenizerBase
    data: Demonstrations
    manifest: dict[str, Any]
    pad_id: int
    dynamics: SupervisedDynamics
    monitors: Monitors
    step: int
    """Completed steps."""
    stopping: EarlyStopping | None
    """None: training goes to its last step."""

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.stopping is not None and self.stopping.is_over


def run_supervised(
    run: SupervisedRun, parallel: Callable[[Any], Any], reported: Callable[[dict[str, float]], None]
) -> None:
    """Train from the newest checkpoint to the last step, or until early stopping, and write adapter/.

    If the driver asks for a stop, training ends after the current step, with a checkpoint and without an adapter. The
    alarm of a monitor with action=stop does the same and raises MonitorStopped. `parallel` wraps the model for data
    parallelism; `reported` is called on every rank after each checkpoint.
    """
    learner = run.config.learner
    training = _start(run)
    wrapped = parallel(training.model)
    wrapped.train()
    num_steps = training.data.num_steps
    schedule = EvalSchedule(run.config.evaluation.every, num_steps)
    training.dynamics.record(training.model, training.step)
    over = training.step >= num_steps or training.is_over
    asked = agreed_to_stop(run.run_dir, run.rank)
    may_stop = any(monitor.action == "stop" for monitor in run.config.monitors)
    alarm = None
    while not (over or asked or alarm):
        line = _train_step(run, training, wrapped)
        if schedule.due(training.step):
            line["eval_loss"] = _evaluate(run, training)
        over = training.step == num_steps or training.is_over
        line |= training.dynamics.record(training.model, training.step, over)
        if run.rank == 0:
            line |= training.monitors.observe(line)
            with JsonlWriter(run.run_dir / "metrics.jsonl") as writer:
                writer.write(line)
        alarm = from_rank_0(stop_reason(run.config.monitors, line)) if may_stop else None
        asked = agreed_to_stop(run.run_dir, run.rank)
        if training.step % learner.checkpoint_every == 0 or over or asked or alarm:
            if run.rank == 0:
                _save(run, training)
            reported({**line, "step": training.step})
    if alarm is not None:
        raise alarm
    if over and run.rank == 0:
        _finish(run, training)


def _start(run: SupervisedRun) -> _Training:
    """The model with its adapter, the data, and all of it as the newest checkpoint left it."""
    config = run.config
    base_sha256 = base_fingerprint(run.model_dir)
    tokenizer = load_tokenizer(run.model_dir)
    data = load_demonstrations(config, tokenizer)
    learner = config.learner.model_copy(update={"steps": data.num_steps})
    torch.manual_seed(config.seed)
    base = load_base(run.model_dir, run.dtype, run.device if learner.sharding == "none" else "cpu")
    if config.packing and not is_packable(base.config):
        raise ConfigError(
            f"packing=true, but rows of a {base.config.model_type!r} model could see each other (known to be "
            f"exact: {', '.join(sorted(PACKABLE_MODEL_TYPES))}); set packing=false"
        )
    model = attach_adapter(
        base,
        config.model.lora,
        Path(config.model.warm_start) if config.model.warm_start else None,
        base_sha256=base_sha256,
        seed=config.seed,
    )
    if isinstance(config.objective, BaLoraSpec):
        start_from_principal_components(model, seed=config.seed)
    if learner.sharding == "base":
        shard_base(model, run.device, cpu_offload=learner.cpu_offload)
    if learner.gradient_checkpointing:
        checkpoint_layers(model)
    optimizer = build_optimizer(model.parameters(), learner)
    scheduler = build_scheduler(optimizer, learner)
    pad_id: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    manifest = start_manifest(config.name, base_sha256, config.model.warm_start)
    step, stopping = _resume(run, data.sha256, manifest, model, optimizer, scheduler)
    dynamics = SupervisedDynamics(config, data.num_steps, tokenizer, run.run_dir, step, writes=run.rank == 0)
    monitors = Monitors(config.monitors, read_jsonl(run.run_dir / "metrics.jsonl") if run.rank == 0 else [])
    return _Training(
        model, optimizer, scheduler, tokenizer, data, manifest, pad_id, dynamics, monitors, step, stopping
    )


def _resume(
    run: SupervisedRun,
    rows_sha256: str | None,
    manifest: dict[str, Any],
    model: Any,
    optimizer: Optimizer,
    scheduler: LambdaLR,
) -> tuple[int, EarlyStopping | None]:
    """Restore everything from the newest checkpoint; returns its steps and the state of early stopping.

    Raises ConfigError where the rows, the base or the warm start are no longer those of the checkpoint.
    """
    step, history = 0, []
    checkpoint = newest_checkpoint(run.run_dir / "checkpoints")
    if checkpoint is not None:
        if checkpoint.extra.get("rows_sha256") != rows_sha256:
            raise ConfigError(
                f"{run.run_dir}: the training rows are not those of its checkpoint {checkpoint.directory.name}; "
                "restore the data file, or start a run under another name"
            )
        restore_checkpoint(checkpoint, model, optimizer, scheduler, adapter_manifest=manifest)
        step, history = checkpoint.step, checkpoint.extra.get("evaluations", [])
    if run.rank == 0:
        cut_jsonl(run.run_dir / "metrics.jsonl", before_step(step))
        for path in (run.run_dir / "samples").glob("step-*.jsonl"):
            if path.name > f"step-{step:06d}.jsonl":
                path.unlink()
    spec = run.config.evaluation.early_stopping
    return step, None if spec is None else EarlyStopping("min", spec.min_delta, spec.patience, history)


def _train_step(run: SupervisedRun, training: _Training, wrapped: Any) -> dict[str, float]:
    config, step, started = run.config, training.step, time.perf_counter()
    torch.manual_seed(sample_seed(config.seed, f"dropout-{step}", run.rank))
    rows = demonstration_batches(
        training.data.row_of,
        step=step,
        rank=run.rank,
        world_size=run.world_size,
        rows_per_step=config.demonstrations_per_step,
        micro_batch_rows=config.learner.micro_batch_rows,
        pad_id=training.pad_id,
        pack_width=config.max_tokens if config.packing else None,
    )
    metrics = supervised_step(
        wrapped,
        training.optimizer,
        training.scheduler,
        rows.batches,
        num_tokens_total=rows.num_tokens_total,
        world_size=run.world_size,
        max_grad_norm=config.learner.max_grad_norm,
        batch_loss=build_batch_loss(config.objective),
    )
    training.step += 1
    metrics["loss"] = mean_over_ranks(metrics["loss"], run.device)
    line = {"step": step, **metrics, "tokens": rows.num_tokens_total, "token_share": rows.token_share}
    if config.too_long == "truncate":
        line["rows_truncated"] = rows.num_truncated
    if training.data.num_rows is not None:
        line["epoch"] = training.step * config.demonstrations_per_step / training.data.num_rows
    return {**line, "step_s": time.perf_counter() - started}


def _evaluate(run: SupervisedRun, training: _Training) -> float:
    """Validation loss; keeps the adapter if it is the best, and writes samples."""
    config, spec = run.config, run.config.evaluation
    batches = row_batches(
        training.data.validation_rows[run.rank :: run.world_size],
        config.learner.micro_batch_rows,
        training.pad_id,
        config.max_tokens if config.packing else None,
    )
    loss = validation_loss(training.model, batches)
    if training.stopping is not None and training.stopping.observe(training.step, loss) and run.rank == 0:
        _save_policy(run, training, _best_dir(run, training.stopping))
    if spec.num_samples:
        path = run.run_dir / "samples" / f"step-{training.step:06d}.jsonl"
        write_samples(
            training.model,
            training.tokenizer,
            training.data.validation,
            spec,
            path,
            config.seed,
            writes=run.rank == 0,
        )
    return loss


def _save(run: SupervisedRun, training: _Training) -> None:
    """A checkpoint; only then do older best adapters go, because a resume could still need them."""
    history = [] if training.stopping is None else training.stopping.history
    save_checkpoint(
        run.run_dir / "checkpoints",
        training.step,
        training.model,
        training.optimizer,
        training.scheduler,
        adapter_manifest=training.manifest,
        extra={"evaluations": history, "rows_sha256": training.data.sha256},
        keep=run.config.learner.keep_checkpoints,
    )
    if training.stopping is None:
        return
    best = _best_dir(run, training.stopping)
    for directory in best.parent.glob("step-*"):
        if directory != best:
            shutil.rmtree(directory)


def _finish(run: SupervisedRun, training: _Training) -> None:
    """Writes adapter/: the best one under early stopping, else the last."""
    target, manifest = run.run_dir / "adapter", training.manifest
    if training.stopping is None:
        _save_policy(run, training, target)
    else:
        content, config = read_adapter(_best_dir(run, training.stopping), manifest["base_sha256"])
        write_adapter(content, config, target, manifest)


def _save_policy(run: SupervisedRun, training: _Training, target: Path) -> None:
    """Save the policy as LoRA on the original base, as engines and RL need it."""
    plain = isinstance(run.config.objective, BaLoraSpec)
    (save_plain_lora if plain else save_adapter)(training.model, target, training.manifest)


def _best_dir(run: SupervisedRun, stopping: EarlyStopping) -> Path:
    return run.run_dir / "best" / f"step-{stopping.best_version:06d}"
