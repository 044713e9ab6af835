"""Rewards: how completions are scored. No ray, no torch.

    base.py             ScoreItem, Score, GroupScores; the protocols Judge and Reward
    plan.py             RewardPlan: what a configuration asks for, read on the driver and built in a replica
    verifier.py         the task's own verifier           python_function.py   a function of the user's
    sandbox.py          programs run against their tests
    distances.py        distances within a group          groups.py            items <-> groups, checks
    protocol.py         the JSON of POST /v1/score        http_client.py       a reward service as a Reward

A new reward is one file and one line in REWARDS. The service around them is services/reward.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from polyray.config.base import as_json
from polyray.errors import RewardError
from polyray.rewards.base import Reward
from polyray.rewards.plan import RewardPlan as RewardPlan
from polyray.rewards.plan import plan_reward as plan_reward
from polyray.rewards.python_function import PythonReward
from polyray.rewards.sandbox import SandboxReward, require_consent
from polyray.rewards.verifier import VerifierReward
from polyray.tasks import build_task


def _build_verifier(spec: Any, plan: RewardPlan) -> Reward:
    task = build_task(plan.task)
    name, version = f"verifier/{plan.task.type}", _version(as_json(plan.task))
    return VerifierReward(task, name, version, plan.diversity)


def _build_python(spec: Any, plan: RewardPlan) -> Reward:
    if spec.path not in plan.sources:
        raise RewardError(f"reward.path={spec.path!r} came without its source; use plan_reward")
    return PythonReward(spec.path, plan.sources[spec.path], build_task(plan.task), plan.diversity)


def _build_sandbox(spec: Any, plan: RewardPlan) -> Reward:
    require_consent(spec)
    how = {key: getattr(spec, key) for key in ("timeout_s", "memory_mib", "strict")}
    version = _version([as_json(plan.task), how])
    return SandboxReward(build_task(plan.task), spec, f"sandbox/{plan.task.type}", version, plan.diversity)


def _version(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


REWARDS: dict[str, Callable[[Any, RewardPlan], Reward]] = {
    "verifier": _build_verifier,
    "python": _build_python,
    "sandbox": _build_sandbox,
}
"""`type` of a configuration -> what builds it, from its own part of the configuration and the plan around it."""
