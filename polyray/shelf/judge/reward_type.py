"""The judge as `reward.type: judge`."""

from __future__ import annotations

from typing import Any

from polyray.rewards.base import Reward
from polyray.rewards.plan import RewardPlan, RewardType, version_of
from polyray.tasks import build_task


def _build(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.config.base import as_json
    from polyray.shelf.judge.reward import JudgeReward

    asked = spec.judge.model_dump(
        mode="json", include={"provider", "model", "temperature", "criteria", "scale"}
    )
    version = version_of([as_json(plan.task), asked])
    return JudgeReward(spec, build_task(plan.task, device), version, plan.diversity, device)


def _check(spec: Any, needs_keys: bool) -> dict[str, str]:
    from polyray.shelf.judge.providers import read_key

    if needs_keys:
        read_key(spec.judge)
    return {}


JUDGE = RewardType(_build, check=_check)
