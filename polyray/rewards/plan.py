"""Plan from which a replica builds its reward: read and checked on the driver, plain data on the way.

    plan_reward(spec, task, diversity) on the driver --pickled--> RewardPlan.build() in the replica

The user's files travel as text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from polyray.config.paths import base_dir
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.reward import (
    CompositeRewardSpec,
    DiversitySpec,
    RewardSpec,
    is_elsewhere,
    reward_identity,
)
from polyray.config.task import TaskSpec
from polyray.errors import ConfigError
from polyray.extensions import find
from polyray.rewards.base import Reward

_ANSWER_BEFORE_CALLER = 0.9
"""Share of request_timeout_s after which a replica itself gives a call up."""


def _no_files(spec: Any, needs_keys: bool) -> dict[str, str]:
    return {}


def _no_hashes(spec: Any) -> dict[str, str]:
    return {}


def _no_conflict(spec: Any, other: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class RewardType:
    """Functions of one `type` of reward; `spec` is its part of the configuration."""

    build: Callable[[Any, RewardPlan, str], Reward]
    """(spec, plan around it, device) -> the reward."""
    check: Callable[[Any, bool], Mapping[str, str]] = _no_files
    """(spec, whether keys are needed) -> `path` of each file -> its text. Raises ConfigError for what would fail in
    every replica."""
    sha256: Callable[[Any], Mapping[str, str]] = _no_hashes
    """spec -> path -> sha256 of each file or model that the reward consists of."""
    check_independent: Callable[[Any, Any], None] = _no_conflict
    """Raises ConfigError if a reward and its second opinion, both of this type, have learnt from the same data."""


REWARDS: dict[str, RewardType] = {}
"""`type` of a configuration -> reward of the core. Filled by the package, which Python imports before this file."""


def reward_type(name: str) -> RewardType:
    """The reward type of the core or of the shelf."""
    return REWARDS[name] if name in REWARDS else find("reward", name)


@dataclass(frozen=True, slots=True)
class RewardPlan:
    """A reward to be built.

    Example:
        RewardPlan(PythonRewardSpec(path="mine.py:score"), HiddenTrapGridSpec(), DiversitySpec(),
                   sources={"mine.py:score": "def score(items): ..."})
    """

    reward: RewardSpec
    task: TaskSpec
    diversity: DiversitySpec
    sources: Mapping[str, str]
    """`path` of a reward -> the text of the user's file; `unsafe_words` -> its words, one a line."""
    second_opinion: RewardSpec | None = None
    """Scored beside `reward` and never optimised."""
    directory: str = ""
    """Directory of the command; names of files in the user's code are relative to it."""

    def build(self, device: str = "cpu") -> Reward:
        """The reward; the models and encoders that it loads run on `device`. Raises RewardError where the user's
        code cannot be executed, DataError where a file of the task is missing."""
        from polyray.rewards.second_opinion import SecondOpinionReward

        reward = self.build_part(self.reward, device)
        if self.second_opinion is None:
            return reward
        return SecondOpinionReward(reward, self.build_part(self.second_opinion, device))

    def build_part(self, spec: RewardSpec, device: str) -> Reward:
        """The reward of `spec` with the rest of this plan; for rewards that are made of others."""
        part = replace(self, reward=spec, second_opinion=None)
        return reward_type(spec.type).build(spec, part, device)

    @property
    def is_remote(self) -> bool:
        """Whether no replica of ours is needed."""
        return is_elsewhere(self.reward, self.second_opinion, self.diversity)


def plan_reward(
    reward: RewardSpec,
    task: TaskSpec,
    diversity: DiversitySpec | None = None,
    second_opinion: RewardSpec | None = None,
    *,
    needs_keys: bool = True,
    directory: str | None = None,
) -> RewardPlan:
    """Reads the user's files; nothing of the user's is executed. `directory`: base of relative paths (default: here).

    Raises MissingFile, and ConfigError for a file that cannot be read or a key that is not set (only where
    `needs_keys`), where programs are to be run without the user's consent, and where the second opinion is the reward
    itself.
    """
    both = [reward] if second_opinion is None else [reward, second_opinion]
    sources: dict[str, str] = {}
    for spec in (leaf for whole in both for leaf in leaves_of(whole)):
        sources |= reward_type(spec.type).check(spec, needs_keys)
        if isinstance(spec, HttpRewardSpec):
            _check_patience(spec, reward.service.request_timeout_s)
    if second_opinion is not None:
        _check_second_opinion(reward, second_opinion)
    return RewardPlan(
        reward, task, diversity or DiversitySpec(), sources, second_opinion, directory or base_dir()
    )


def reward_sha256(reward: RewardSpec) -> dict[str, str]:
    """Path -> sha256 of each file or model that a reward consists of. Raises ConfigError where one is missing."""
    found: dict[str, str] = {}
    for spec in leaves_of(reward):
        found |= reward_type(spec.type).sha256(spec)
    return found


def sha256_of(text: str) -> str:
    """Hash of a user's file."""
    return hashlib.sha256(text.encode()).hexdigest()


def version_of(content: Any) -> str:
    """Short name of what a reward was built from."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def leaves_of(spec: RewardSpec) -> Iterator[RewardSpec]:
    """The parts of a composite reward, and of composites in it; any other reward by itself."""
    if isinstance(spec, CompositeRewardSpec):
        for part in spec.parts:
            yield from leaves_of(part.reward)
    else:
        yield spec


def _check_patience(spec: HttpRewardSpec, request_timeout_s: float) -> None:
    longest_s = spec.client.deadline_s + spec.client.breaker_open_s
    if longest_s >= _ANSWER_BEFORE_CALLER * request_timeout_s:
        raise ConfigError(
            f"client.deadline_s={spec.client.deadline_s:g} and breaker_open_s={spec.client.breaker_open_s:g} of the "
            f"reward at {spec.url} need more than reward.service.request_timeout_s={request_timeout_s:g} leaves; "
            f"raise that above {longest_s / _ANSWER_BEFORE_CALLER:g}, or lower them"
        )


def _check_second_opinion(reward: RewardSpec, second: RewardSpec) -> None:
    """A second opinion that has learnt from the same data repeats the first one."""
    if reward_identity(reward) == reward_identity(second):
        raise ConfigError(
            "second_opinion is the same as reward: it would agree with itself; name another one, e.g. an engagement "
            "model that was trained on other threads"
        )
    for spec, other in itertools.product(leaves_of(reward), leaves_of(second)):
        if spec.type == other.type:
            reward_type(spec.type).check_independent(spec, other)
