"""The files that jobs.serve reads."""

from __future__ import annotations

from typing import Literal

from polyray.config.base import StrictModel
from polyray.config.reward import DiversitySpec, RewardSpec, VerifierRewardSpec
from polyray.config.run import RaySpec, RunName
from polyray.config.task import HiddenTrapGridSpec, TaskSpec


class RewardServeConfig(StrictModel):
    """jobs.serve: a reward service of its own, for evaluation, scripts and other programs."""

    service: Literal["reward"] = "reward"
    name: RunName = "serve"
    task: TaskSpec = HiddenTrapGridSpec()
    reward: RewardSpec = VerifierRewardSpec()
    diversity: DiversitySpec = DiversitySpec()
    ray: RaySpec = RaySpec(num_cpus=4)
