"""Rewards: how completions are scored. No ray, no torch.

    base.py             ScoreItem, Score, GroupScores; the protocols Judge and Reward
    plan.py             RewardPlan: what a configuration asks for, read on the driver and built in a replica
    task_reward.py      what most rewards share: classes and distances of the task
    verifier.py         the task's own verifier           python_function.py   a function of the user's
    callables.py        a function given in Python         sibling_modules.py   modules beside the user's file
    sandbox.py          programs run against their tests  heuristic.py         texts, without any model
    composite.py        several rewards as one            second_opinion.py    a second one that is only logged
    remote.py           a reward service elsewhere        client.py            how it is called: deadline, retries
    client_policy.py    ... its decisions                 wires.py             ... its two protocols
    distances.py        distances within a group          groups.py            items <-> groups, checks
    protocol.py         the JSON of the service

A new reward is one file and one line in REWARDS; those of the shelf (engagement, judge) register themselves. The
service around them is polyray/serving/reward.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from polyray.config.base import as_json
from polyray.data.flagged_words import FlaggedWords, read_flagged_words
from polyray.data.sources import BUILTIN
from polyray.errors import MissingFile, RewardError
from polyray.rewards.base import Reward
from polyray.rewards.callables import load_function, offered_function
from polyray.rewards.composite import CompositeReward, Part
from polyray.rewards.heuristic import HeuristicReward
from polyray.rewards.plan import REWARDS as REWARDS
from polyray.rewards.plan import RewardPlan as RewardPlan
from polyray.rewards.plan import RewardType, sha256_of, version_of
from polyray.rewards.plan import plan_reward as plan_reward
from polyray.rewards.python_function import LoadedFunction, PythonReward, compile_function, load_reward_source
from polyray.rewards.sandbox import SandboxReward, require_consent
from polyray.rewards.verifier import VerifierReward
from polyray.tasks import build_task


def _build_verifier(spec: Any, plan: RewardPlan, device: str) -> Reward:
    task = build_task(plan.task, device)
    name, version = f"verifier/{plan.task.type}", version_of(as_json(plan.task))
    return VerifierReward(task, name, version, plan.diversity, device)


def _build_python(spec: Any, plan: RewardPlan, device: str) -> Reward:
    if spec.path not in plan.sources:
        raise RewardError(f"reward.path={spec.path!r} came without its source; use plan_reward")
    return _calling(compile_function(spec.path, plan.sources[spec.path]), spec, plan, device)


def _build_callable(spec: Any, plan: RewardPlan, device: str) -> Reward:
    if spec.sha256 not in plan.sources:
        raise RewardError(f"reward function {spec.name} came without its code; use plan_reward")
    return _calling(load_function(spec, plan.sources[spec.sha256]), spec, plan, device)


def _calling(function: LoadedFunction, spec: Any, plan: RewardPlan, device: str) -> Reward:
    version = version_of(
        [function.version, as_json(plan.task), spec.score_range]
    )  # all that a score depends on
    return PythonReward(
        replace(function, version=version),
        build_task(plan.task, device),
        plan.diversity,
        score_range=spec.score_range,
        deterministic=spec.deterministic,
        device=device,
    )


def _check_callable(spec: Any, needs_keys: bool) -> dict[str, str]:
    return {spec.sha256: offered_function(spec)}


def _sha256_callable(spec: Any) -> dict[str, str]:
    return {spec.name: spec.sha256}


def _check_python(spec: Any, needs_keys: bool) -> dict[str, str]:
    return {spec.path: load_reward_source(spec.path)}


def _sha256_python(spec: Any) -> dict[str, str]:
    return {spec.path: sha256_of(load_reward_source(spec.path))}


def _build_sandbox(spec: Any, plan: RewardPlan, device: str) -> Reward:
    require_consent(spec)
    how = {key: getattr(spec, key) for key in ("timeout_s", "memory_mib", "strict")}
    version = version_of([as_json(plan.task), how])
    return SandboxReward(
        build_task(plan.task, device), spec, f"sandbox/{plan.task.type}", version, plan.diversity, device
    )


def _check_sandbox(spec: Any, needs_keys: bool) -> dict[str, str]:
    require_consent(spec)
    return {}


def _build_heuristic(spec: Any, plan: RewardPlan, device: str) -> Reward:
    entries = plan.sources[spec.unsafe_words].splitlines()
    version = version_of([as_json(plan.task), _settings(spec), entries])
    unsafe = FlaggedWords(
        frozenset(entry for entry in entries if " " not in entry),
        tuple(entry for entry in entries if " " in entry),
    )
    return HeuristicReward(spec, unsafe, build_task(plan.task, device), version, plan.diversity, device)


def _check_heuristic(spec: Any, needs_keys: bool) -> dict[str, str]:
    if spec.unsafe_words != BUILTIN and not Path(spec.unsafe_words).is_file():
        raise MissingFile(
            f"{spec.unsafe_words}: no such file; correct reward.unsafe_words, or set it to builtin"
        )
    return {spec.unsafe_words: _entries(spec)}


def _sha256_heuristic(spec: Any) -> dict[str, str]:
    return {spec.unsafe_words: sha256_of(_entries(spec))}


def _entries(spec: Any) -> str:
    flagged = read_flagged_words(spec.unsafe_words)
    return "\n".join([*sorted(flagged.words), *flagged.phrases])


def _check_http(spec: Any, needs_keys: bool) -> dict[str, str]:
    from polyray.rewards.remote import read_token

    if needs_keys:
        read_token(spec)
    return {}


def _build_http(spec: Any, plan: RewardPlan, device: str) -> Reward:
    from polyray.rewards.remote import HttpReward

    version = version_of([as_json(plan.task), _settings(spec)])
    return HttpReward(spec, build_task(plan.task, device), version, plan.diversity, device)


def _build_composite(spec: Any, plan: RewardPlan, device: str) -> Reward:
    parts = [Part(part, plan.build_part(part.reward, device)) for part in spec.parts]
    return CompositeReward(spec, parts)


def _settings(spec: Any) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"service", "client"})


REWARDS |= {
    "verifier": RewardType(_build_verifier),
    "python": RewardType(_build_python, _check_python, _sha256_python),
    "callable": RewardType(_build_callable, _check_callable, _sha256_callable),
    "sandbox": RewardType(_build_sandbox, _check_sandbox),
    "heuristic": RewardType(_build_heuristic, _check_heuristic, _sha256_heuristic),
    "http": RewardType(_build_http, _check_http),
    "composite": RewardType(_build_composite),
}
