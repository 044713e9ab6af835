"""An engagement model as `reward.type: engagement`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polyray.errors import ConfigError, MissingFile
from polyray.rewards.base import Reward
from polyray.rewards.plan import RewardPlan, RewardType
from polyray.tasks import build_task


def _build(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.shelf.preferences.reward_model import build_engagement_reward

    return build_engagement_reward(spec.path, build_task(plan.task, device), plan.diversity, device)


def _check(spec: Any, needs_keys: bool) -> dict[str, str]:
    directory = Path(spec.path)
    if not (directory / "config.json").is_file():
        problem = ConfigError if directory.exists() else MissingFile
        raise problem(
            f"{directory}: no such file or directory, or no engagement model; make one with "
            "polyray train_reward, or correct the path"
        )
    return {}


def _sha256(spec: Any) -> dict[str, str]:
    from polyray.shelf.preferences.reward_model import read_card

    return {spec.path: read_card(Path(spec.path)).version}


def _check_independent(spec: Any, other: Any) -> None:
    """Raises ConfigError for two models that have learnt from the same data."""
    from polyray.shelf.preferences.reward_model import check_independent, read_card

    check_independent(read_card(Path(spec.path)), read_card(Path(other.path)))


ENGAGEMENT = RewardType(_build, _check, _sha256, _check_independent)
