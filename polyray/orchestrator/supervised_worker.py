"""The SFT loop inside Ray Train: polyray/learner/supervised_loop.py, wrapped for data parallelism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from polyray.config.run import SftConfig
from polyray.runs.error_log import errors_logged
from polyray.runs.logging import log_as


def supervised_loop(arguments: dict[str, Any]) -> None:
    """Ray Train's function. `arguments`: config (plain values), model_dir, run_dir, dtype."""
    rank = ray.train.get_context().get_world_rank()
    with errors_logged(Path(arguments["run_dir"]), f"learner-{rank}"):
        _train(arguments)


def _train(arguments: dict[str, Any]) -> None:
    from polyray.learner.determinism import make_reproducible
    from polyray.learner.supervised_loop import SupervisedRun, run_supervised

    config = SftConfig.model_validate(arguments["config"])
    device = torch.device("cuda") if config.learner.use_gpu else torch.device("cpu")
    make_reproducible(config.learner.num_threads, device)
    context = ray.train.get_context()
    log_as(f"learner-{context.get_world_rank()}", config.name)
    run = SupervisedRun(
        config=config,
        model_dir=Path(arguments["model_dir"]),
        run_dir=Path(arguments["run_dir"]),
        dtype=arguments["dtype"],
        device=device,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    whole = config.learner.sharding == "none"  # ranks that share a base sum their gradients themselves
    parallel = ray.train.torch.prepare_model if run.world_size > 1 and whole else _as_it_is
    run_supervised(run, parallel, lambda metrics: ray.train.report(metrics))


def _as_it_is(model: Any) -> Any:
    return model
