"""The training loop of an engagement model, without Ray: steps, validation, early stopping, checkpoints, resume.

    frozen encoder    every text is embedded once (and kept in the run's directory), then only the head is trained
    fine_tune         the texts of a batch are embedded with gradients, at a rate of the encoder's own

(seed, step) alone determines the rows of a step; ranks divide its rows, every loss is divided by the weight of the
whole batch and gradients are summed, so several ranks are one rank up to rounding, and a resumed run is the same run.
`reward_model_loop` is what Ray Train runs (polyray/launch/trainer.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray.train
import torch

from polyray.config.periodic_eval import EvalSchedule
from polyray.config.reward_model import TrainRewardConfig
from polyray.errors import RewardError
from polyray.launch.trainer import TrainWorker
from polyray.learner.optim import build_scheduler
from polyray.learner.reduce import mean_over_ranks, sum_gradients
from polyray.learner.stopping import agreed_to_stop
from polyray.models.embedder import Embedder
from polyray.periodic_eval import EarlyStopping
from polyray.runs.jsonl import JsonlWriter, before_step, cut_jsonl
from polyray.shelf.preferences.reward_model.checkpoint import (
    Training,
    keep_best,
    load_best,
    resume,
    save_checkpoint,
)
from polyray.shelf.preferences.reward_model.data import TrainingData, load_training_data, num_steps_of
from polyray.shelf.preferences.reward_model.finish import write_model
from polyray.shelf.preferences.reward_model.network import Network, build_network, embed_all
from polyray.shelf.preferences.reward_model.objective import batch_losses, batch_rows, validation_metrics


def reward_model_loop(worker: TrainWorker) -> None:
    """The loop of one rank inside Ray Train."""
    run_reward_training(worker, lambda metrics: ray.train.report(metrics))


def run_reward_training(run: TrainWorker, reported: Callable[[dict[str, float]], None]) -> None:
    """Train from the newest checkpoint to the last step, or until validation no longer improves; write model/.

    If the driver asks for a stop, training ends after the current step, with a checkpoint and without a model.
    `reported` is called on every rank after each checkpoint.
    """
    config = run.config
    training = _start(run)
    schedule = EvalSchedule(config.stopping.every, training.num_steps)

    def is_over() -> bool:
        return training.stopping.is_over or training.step >= training.num_steps

    rows_sha256 = training.data.rows_sha256
    asked = agreed_to_stop(run.run_dir, run.rank)
    with _Log(run, training.step) as log:
        while not is_over() and not asked:
            line = _train_step(run, training)
            if schedule.due(training.step):
                line |= _evaluate(run, training)
            log.write(line)
            asked = agreed_to_stop(run.run_dir, run.rank)
            if training.step % config.learner.checkpoint_every == 0 or is_over() or asked:
                if run.rank == 0:
                    save_checkpoint(run.run_dir, training, rows_sha256, config)
                reported({**line, "step": training.step})
    if not is_over():
        return
    load_best(run.run_dir, training.stopping.best_version, training.network)
    embeddings = embed_all(training.network, training.data.texts, run)  # every rank takes part
    if run.rank == 0:
        write_model(run, training.network, training.data, embeddings, training.stopping.best_version)


def _start(run: TrainWorker) -> Training:
    config = run.config
    data = load_training_data(config)
    torch.manual_seed(config.seed)
    device = "cuda" if run.device.type == "cuda" else "cpu"
    embedder = Embedder(config.encoder.name, device=device, cache_entries=0)
    network = build_network(config, embedder, data, run)
    num_steps = num_steps_of(config, data)
    learner = config.learner.model_copy(update={"steps": num_steps})
    optimizer = torch.optim.AdamW(
        network.parameter_groups(learner, config.encoder.learning_rate), betas=learner.betas
    )
    mode = "max" if config.stopping.metric == "accuracy" else "min"
    stopping = EarlyStopping(mode, config.stopping.min_delta, config.stopping.patience)
    training = Training(network, data, optimizer, build_scheduler(optimizer, learner), num_steps, stopping)
    resume(run.run_dir, training, data.rows_sha256)
    return training


def _train_step(run: TrainWorker, training: Training) -> dict[str, float]:
    started, step = time.perf_counter(), training.step
    losses = backward(training.network, training.data, run.config, step, run.rank, run.world_size)
    parameters = training.network.parameters()
    sum_gradients(parameters, divide_by=1.0)
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, run.config.learner.max_grad_norm)
    if not torch.isfinite(grad_norm):
        raise RewardError(
            f"step {step}: the gradient's norm is {float(grad_norm)}; lower learner.learning_rate="
            f"{run.config.learner.learning_rate} or encoder.learning_rate={run.config.encoder.learning_rate}"
        )
    rate = float(training.scheduler.get_last_lr()[0])
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.scheduler.step()
    training.step += 1
    total = {name: mean_over_ranks(value, run.device) * run.world_size for name, value in losses.items()}
    return {
        "step": step,
        "loss": sum(total.values()),
        **total,
        "grad_norm": float(grad_norm),
        "lr": rate,
        "step_s": time.perf_counter() - started,
    }


def backward(
    network: Network, data: TrainingData, config: TrainRewardConfig, step: int, rank: int, world_size: int
) -> dict[str, float]:
    """Adds this rank's gradient of the loss of batch `step`; returns its share of each part of the loss.

    Over all ranks the gradients, and the shares, sum to those of one rank.
    """
    batch = batch_rows(data.train, config, step)
    names = ("pair_loss", "regression_loss")
    losses = {name: 0.0 for name, rows in zip(names, batch.whole, strict=True) if rows}
    size = config.learner.micro_batch_rows if config.encoder.fine_tune else config.rows_per_step
    for part in batch.of_rank(rank, world_size).micro_batches(size):
        found = batch_losses(network, data, part, config)
        torch.stack(list(found.values())).sum().backward()
        for name, loss in found.items():
            losses[name] += float(loss.detach())
    return losses


def _evaluate(run: TrainWorker, training: Training) -> dict[str, float]:
    """Validation, the same numbers on every rank; keeps the network if it is the best."""
    config = run.config
    embeddings = embed_all(training.network, training.data.texts, run)
    metrics = validation_metrics(training.network, training.data, embeddings, config)
    if training.stopping.observe(training.step, metrics[f"eval_{config.stopping.metric}"]) and run.rank == 0:
        keep_best(run.run_dir, training.step, training.network)
    return metrics


class _Log:
    """metrics.jsonl, written by rank 0."""

    def __init__(self, run: TrainWorker, step: int) -> None:
        self._path = run.run_dir / "metrics.jsonl"
        self._writer: JsonlWriter | None = None
        if run.rank == 0:
            cut_jsonl(self._path, before_step(step))
            self._writer = JsonlWriter(self._path)

    def __enter__(self) -> _Log:
        return self

    def write(self, line: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(line)

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.close()
