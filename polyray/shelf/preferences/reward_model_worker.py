"""Ray Train worker of an engagement model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train
import torch

from polyray.config.reward_model import TrainRewardConfig
from polyray.runs.error_log import errors_logged
from polyray.runs.logging import log_as


def reward_model_loop(arguments: dict[str, Any]) -> None:
    """Ray Train's function. `arguments`: config (plain values), run_dir."""
    rank = ray.train.get_context().get_world_rank()
    with errors_logged(Path(arguments["run_dir"]), f"learner-{rank}"):
        _train(arguments)


def _train(arguments: dict[str, Any]) -> None:
    from polyray.learner.determinism import make_reproducible
    from polyray.shelf.preferences.reward_model.run import RewardTrainingRun
    from polyray.shelf.preferences.reward_model.training import run_reward_training

    config = TrainRewardConfig.model_validate(arguments["config"])
    device = torch.device("cuda") if config.learner.use_gpu else torch.device("cpu")
    make_reproducible(config.learner.num_threads, device)
    context = ray.train.get_context()
    log_as(f"learner-{context.get_world_rank()}", config.name)
    run = RewardTrainingRun(
        config=config,
        run_dir=Path(arguments["run_dir"]),
        device=device,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    run_reward_training(run, lambda metrics: ray.train.report(metrics))
