"""Rewards: how completions are scored. No ray, no torch.

    base.py             ScoreItem, Score, GroupScores; the protocols Judge and Reward
    plan.py             RewardPlan: what a configuration asks for, read on the driver and built in a replica
    task_reward.py      what most rewards share: classes and distances of the task
    verifier.py         the task's own verifier           python_function.py   a function of the user's
    sandbox.py          programs run against their tests  engagement/          a model of what people react to
    judge.py            an LLM judge's rubric             heuristic.py         texts, without any model
    composite.py        several rewards as one            second_opinion.py    a second one that is only logged
    remote.py           a reward service elsewhere        client.py            how it is called: deadline, retries
    client_policy.py    ... its decisions                 wires.py             ... its two protocols
    distances.py        distances within a group          groups.py            items <-> groups, checks
    protocol.py         the JSON of the service

A new reward is one file and one line in REWARDS. The service around them is polyray/serving/reward.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from polyray.config.base import as_json
from polyray.data.flagged_words import FlaggedWords
from polyray.errors import RewardError
from polyray.rewards.base import Reward
from polyray.rewards.composite import CompositeReward, Part
from polyray.rewards.heuristic import HeuristicReward
from polyray.rewards.plan import REWARDS as REWARDS
from polyray.rewards.plan import RewardPlan as RewardPlan
from polyray.rewards.plan import plan_reward as plan_reward
from polyray.rewards.python_function import PythonReward
from polyray.rewards.sandbox import SandboxReward, require_consent
from polyray.rewards.verifier import VerifierReward
from polyray.tasks import build_task


def _build_verifier(spec: Any, plan: RewardPlan, device: str) -> Reward:
    task = build_task(plan.task, device)
    name, version = f"verifier/{plan.task.type}", _version(as_json(plan.task))
    return VerifierReward(task, name, version, plan.diversity, device)


def _build_python(spec: Any, plan: RewardPlan, device: str) -> Reward:
    if spec.path not in plan.sources:
        raise RewardError(f"reward.path={spec.path!r} came without its source; use plan_reward")
    return PythonReward(
        spec.path,
        plan.sources[spec.path],
        build_task(plan.task, device),
        plan.diversity,
        score_range=spec.score_range,
        deterministic=spec.deterministic,
        device=device,
    )


def _build_sandbox(spec: Any, plan: RewardPlan, device: str) -> Reward:
    require_consent(spec)
    how = {key: getattr(spec, key) for key in ("timeout_s", "memory_mib", "strict")}
    version = _version([as_json(plan.task), how])
    return SandboxReward(
        build_task(plan.task, device), spec, f"sandbox/{plan.task.type}", version, plan.diversity, device
    )


def _version(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _build_engagement(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.shelf.preferences.reward_model import build_engagement_reward

    return build_engagement_reward(spec.path, build_task(plan.task, device), plan.diversity, device)


def _build_heuristic(spec: Any, plan: RewardPlan, device: str) -> Reward:
    entries = plan.sources[spec.unsafe_words].splitlines()
    version = _version([as_json(plan.task), _settings(spec), entries])
    unsafe = FlaggedWords(
        frozenset(entry for entry in entries if " " not in entry),
        tuple(entry for entry in entries if " " in entry),
    )
    return HeuristicReward(spec, unsafe, build_task(plan.task, device), version, plan.diversity, device)


def _build_judge(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.shelf.judge.reward import JudgeReward

    asked = spec.judge.model_dump(
        mode="json", include={"provider", "model", "temperature", "criteria", "scale"}
    )
    version = _version([as_json(plan.task), asked])
    return JudgeReward(spec, build_task(plan.task, device), version, plan.diversity, device)


def _build_http(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.rewards.remote import HttpReward

    version = _version([as_json(plan.task), _settings(spec)])
    return HttpReward(spec, build_task(plan.task, device), version, plan.diversity, device)


def _build_composite(spec: Any, plan: RewardPlan, device: str) -> Reward:
    parts = [Part(part, plan.build_part(part.reward, device)) for part in spec.parts]
    return CompositeReward(spec, parts)


def _settings(spec: Any) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"service", "client"})


REWARDS |= {
    "verifier": _build_verifier,
    "python": _build_python,
    "sandbox": _build_sandbox,
    "engagement": _build_engagement,
    "heuristic": _build_heuristic,
    "judge": _build_judge,
    "http": _build_http,
    "composite": _build_composite,
}
