"""The SFT loop, without Ray: a LoRA warm start on the task's demonstrations, checkpointed and resumable.

Which rows a step sees follows from (seed, step) alone, so a resumed run is the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyray.config.run import SftConfig
from polyray.data.chat import encode_demonstration
from polyray.data.packing import TokenRow
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.state import newest_checkpoint, restore_checkpoint, save_checkpoint
from polyray.learner.supervised import demonstration_batches, supervised_step
from polyray.models.loading import base_fingerprint, load_base, load_tokenizer
from polyray.models.lora import attach_adapter, save_adapter
from polyray.observability.jsonl import JsonlWriter, before_step, cut_jsonl
from polyray.tasks import build_task


@dataclass(frozen=True, slots=True)
class SupervisedRun:
    """Where an SFT run lives and who takes part.

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


def run_supervised(
    run: SupervisedRun, parallel: Callable[[Any], Any], reported: Callable[[dict[str, float]], None]
) -> None:
    """Trains from the newest checkpoint to the last step and writes adapter/.

    `parallel` wraps the model for data parallelism; `reported` is called on every rank after each checkpoint.
    """
    config, learner = run.config, run.config.learner
    base_sha256 = base_fingerprint(run.model_dir)
    torch.manual_seed(config.seed)
    model = attach_adapter(
        load_base(run.model_dir, run.dtype).to(run.device),  # type: ignore[arg-type]
        config.model.lora,
        Path(config.model.warm_start) if config.model.warm_start else None,
        base_sha256=base_sha256,
        seed=config.seed,
    )
    optimizer = build_optimizer(model.parameters(), learner)
    scheduler = build_scheduler(optimizer, learner)
    manifest = {"base_sha256": base_sha256, "run": config.name}
    checkpoints_dir, metrics_path = run.run_dir / "checkpoints", run.run_dir / "metrics.jsonl"
    checkpoint = newest_checkpoint(checkpoints_dir)
    if checkpoint is not None:
        restore_checkpoint(checkpoint, model, optimizer, scheduler)
    first = checkpoint.step if checkpoint is not None else 0
    if run.rank == 0:
        cut_jsonl(metrics_path, before_step(first))
    row_of, pad_id = demonstration_rows(config, run.model_dir)
    wrapped = parallel(model)
    wrapped.train()
    for step in range(first, learner.steps):
        started = time.perf_counter()
        batches, num_tokens_total = demonstration_batches(
            row_of,
            step=step,
            rank=run.rank,
            world_size=run.world_size,
            rows_per_step=config.demonstrations_per_step,
            micro_batch_rows=learner.micro_batch_rows,
            pad_id=pad_id,
        )
        metrics = supervised_step(
            wrapped,
            optimizer,
            scheduler,
            batches,
            num_tokens_total=num_tokens_total,
            world_size=run.world_size,
            max_grad_norm=learner.max_grad_norm,
        )
        if run.rank == 0:
            line = {
                "step": step,
                **metrics,
                "tokens": num_tokens_total,
                "step_s": time.perf_counter() - started,
            }
            with JsonlWriter(metrics_path) as writer:
                writer.write(line)
        if (step + 1) % learner.checkpoint_every == 0 or step + 1 == learner.steps:
            if run.rank == 0:
                save_checkpoint(
                    checkpoints_dir,
                    step + 1,
                    model,
                    optimizer,
                    scheduler,
                    adapter_manifest=manifest,
                    extra={},
                    keep=learner.keep_checkpoints,
                )
            reported({"step": step + 1, **metrics})
    if run.rank == 0:
        save_adapter(model, run.run_dir / "adapter", manifest)


def demonstration_rows(config: SftConfig, model_dir: Path) -> tuple[Callable[[int], TokenRow], int]:
    """(demonstration number -> token row, padding id); a row longer than max_tokens is a DataError naming
    it."""
    tokenizer = load_tokenizer(model_dir)
    task = build_task(config.task)

    def row_of(index: int) -> TokenRow:
        prompt, response = task.demonstration(index, config.seed)
        return encode_demonstration(tokenizer, prompt, response, config.max_tokens)

    pad_id: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return row_of, pad_id
