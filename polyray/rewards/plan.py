"""Everything that a replica needs to build its reward: read and checked on the driver, plain data on the way.

    plan_reward(spec, task, diversity) on the driver --pickled--> RewardPlan.build() where completions are scored

The user's files travel as text.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyray.config.paths import base_dir
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.reward import (
    CompositeRewardSpec,
    DiversitySpec,
    PythonRewardSpec,
    RewardSpec,
    SandboxRewardSpec,
    is_elsewhere,
    reward_identity,
)
from polyray.config.task import TaskSpec
from polyray.config.text_reward import EngagementRewardSpec, HeuristicRewardSpec, JudgeRewardSpec
from polyray.data.flagged_words import read_flagged_words
from polyray.data.sources import BUILTIN
from polyray.errors import ConfigError, MissingFile
from polyray.rewards.base import Reward
from polyray.rewards.python_function import load_reward_source
from polyray.rewards.sandbox import require_consent

_ANSWER_BEFORE_CALLER = 0.9
"""Share of request_timeout_s after which a replica itself gives a call up."""

REWARDS: dict[str, Callable[[Any, RewardPlan, str], Reward]] = {}
"""`type` of a configuration -> its builder, called with its own part of the configuration, the plan around it and
the device. Filled by the package, which Python imports before this file."""


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
        return REWARDS[spec.type](spec, replace(self, reward=spec, second_opinion=None), device)

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
) -> RewardPlan:
    """Reads the user's files; nothing of the user's is executed.

    Raises MissingFile, and ConfigError for a file that cannot be read or a key that is not set (only where
    `needs_keys`), where programs are to be run without the user's consent, and where the second opinion is the reward
    itself.
    """
    both = [reward] if second_opinion is None else [reward, second_opinion]
    sources: dict[str, str] = {}
    for spec in (leaf for whole in both for leaf in _leaves(whole)):
        sources |= _checked(spec, needs_keys)
        if isinstance(spec, HttpRewardSpec):
            _check_patience(spec, reward.service.request_timeout_s)
    if second_opinion is not None:
        _check_second_opinion(reward, second_opinion)
    return RewardPlan(reward, task, diversity or DiversitySpec(), sources, second_opinion, base_dir())


def reward_sha256(reward: RewardSpec) -> dict[str, str]:
    """Path -> sha256 of each file or model that a reward consists of. Raises ConfigError where one is missing."""
    found: dict[str, str] = {}
    for spec in _leaves(reward):
        if isinstance(spec, PythonRewardSpec):
            found[spec.path] = _sha256(load_reward_source(spec.path))
        elif isinstance(spec, EngagementRewardSpec):
            from polyray.shelf.preferences.reward_model import read_card

            found[spec.path] = read_card(Path(spec.path)).version
        elif isinstance(spec, HeuristicRewardSpec):
            flagged = read_flagged_words(spec.unsafe_words)
            found[spec.unsafe_words] = _sha256("\n".join([*sorted(flagged.words), *flagged.phrases]))
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _leaves(spec: RewardSpec) -> Iterator[RewardSpec]:
    if isinstance(spec, CompositeRewardSpec):
        for part in spec.parts:
            yield from _leaves(part.reward)
    else:
        yield spec


def _checked(spec: RewardSpec, needs_keys: bool) -> dict[str, str]:
    """The files of one reward as text; raises ConfigError for what would fail in every replica."""
    if isinstance(spec, SandboxRewardSpec):
        require_consent(spec)
    if isinstance(spec, PythonRewardSpec):
        return {spec.path: load_reward_source(spec.path)}
    if isinstance(spec, EngagementRewardSpec):
        directory = Path(spec.path)
        if not (directory / "config.json").is_file():
            problem = ConfigError if directory.exists() else MissingFile
            raise problem(
                f"{directory}: no such file or directory, or no engagement model; make one with "
                "python -m jobs.train_reward, or correct the path"
            )
    if isinstance(spec, HeuristicRewardSpec):
        if spec.unsafe_words != BUILTIN and not Path(spec.unsafe_words).is_file():
            raise MissingFile(
                f"{spec.unsafe_words}: no such file; correct reward.unsafe_words, or set it to builtin"
            )
        flagged = read_flagged_words(spec.unsafe_words)
        return {spec.unsafe_words: "\n".join([*sorted(flagged.words), *flagged.phrases])}
    if needs_keys and isinstance(spec, JudgeRewardSpec):
        from polyray.shelf.judge.providers import read_key

        read_key(spec.judge)
    if needs_keys and isinstance(spec, HttpRewardSpec):
        from polyray.rewards.remote import read_token

        read_token(spec)
    return {}


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
    learnt, other = (
        [leaf.path for leaf in _leaves(spec) if isinstance(leaf, EngagementRewardSpec)]
        for spec in (reward, second)
    )
    if learnt and other:
        from polyray.shelf.preferences.reward_model import check_independent, read_card

        for path, beside in itertools.product(learnt, other):
            check_independent(read_card(Path(path)), read_card(Path(beside)))
