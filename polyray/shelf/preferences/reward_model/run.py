"""Configuration, place and rank of the training of an engagement model, for all of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from polyray.config.reward_model import TrainRewardConfig


@dataclass(frozen=True, slots=True)
class RewardTrainingRun:
    """Configuration, place and rank of a run.

    Example:
        RewardTrainingRun(config=TrainRewardConfig(...), run_dir=Path("runs/reward"), device=torch.device("cpu"),
                          rank=0, world_size=1)
    """

    config: TrainRewardConfig
    run_dir: Path
    device: torch.device
    rank: int
    world_size: int
