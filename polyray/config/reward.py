"""Rewards of completions, and sources of diversity.

The rewards of texts are in text_reward.py, the remote one in remote_reward.py; their union is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.paths import FunctionPath, NameOrPath
from polyray.config.remote_reward import HttpRewardSpec
from polyray.config.service import SandboxServiceSpec, ServiceSpec
from polyray.config.text_reward import EngagementRewardSpec, HeuristicRewardSpec, JudgeRewardSpec


class VerifierRewardSpec(StrictModel):
    """The task's own verifier."""

    type: Literal["verifier"] = "verifier"
    service: ServiceSpec = ServiceSpec()


def _within_the_unit(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] < value[1] <= 1:
        raise ValueError(f"score_range={list(value)} must ascend within [0, 1]")
    return value


ScoreRange = Annotated[tuple[float, float], AfterValidator(_within_the_unit)]


class PythonRewardSpec(StrictModel):
    """A function of the user's: `score(items: list[dict]) -> list[float | dict]`, carried to the workers."""

    type: Literal["python"] = "python"
    path: FunctionPath = Field(description="file and function, e.g. my_reward.py:score")
    score_range: ScoreRange = Field(
        default=(0.0, 1.0), description="lowest and highest score; others leave the completion unscored"
    )
    deterministic: bool = Field(
        default=False, description="an equal item always gets an equal score: the service may keep scores"
    )
    service: ServiceSpec = ServiceSpec()

    @field_validator("path")
    @classmethod
    def _file_and_function(cls, value: str) -> str:
        file, _, function = value.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError(f"reward.path={value!r} is not FILE.py:FUNCTION, e.g. my_reward.py:score")
        return value


class CallableRewardSpec(StrictModel):
    """A function that was given in Python, as polyray.train(reward=FUNCTION); the same contract as `python`."""

    type: Literal["callable"] = "callable"
    name: str = Field(description="name of the function")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="of the function's code and of all that it refers to"
    )
    score_range: ScoreRange = Field(default=(0.0, 1.0), description="as in `python`")
    deterministic: bool = Field(default=False, description="as in `python`")
    service: ServiceSpec = ServiceSpec()


class SandboxRewardSpec(StrictModel):
    """Completions that are programs, run against their tests in the sandbox (task.type: code)."""

    type: Literal["sandbox"] = "sandbox"
    allow_code_execution: bool = Field(
        default=False, description="must be true: this machine then runs programs that a model wrote"
    )
    timeout_s: float = Field(default=3.0, gt=0, le=86_400, description="wall clock of one program")
    memory_mib: int = Field(default=4096, ge=64, description="address space of one process of a program")
    workers: int = Field(default=2, ge=1, description="programs that a replica runs at a time")
    strict: bool = Field(
        default=False,
        description="tests and program in two processes: a program cannot forge a verdict or patch the tests",
    )
    service: SandboxServiceSpec = SandboxServiceSpec()


class CompositePartSpec(StrictModel):
    """One reward within another."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="before its components: NAME/...")
    reward: RewardSpec = Field(description="the reward of this part")
    weight: float = Field(default=1.0, ge=0, description="in the mean; 0: a gate only")
    required: bool = Field(
        default=True,
        description="without its score there is none; false: the others' weights are renormalised",
    )
    gate: float | None = Field(
        default=None, ge=0, le=1, description="a score below it closes the gate, for any other scores"
    )

    @model_validator(mode="after")
    def _no_service_of_its_own(self) -> CompositePartSpec:
        check_no_service(self.reward, f"part {self.name!r}")
        return self


class CompositeRewardSpec(StrictModel):
    """Several rewards as one: a weighted mean or product, behind gates."""

    type: Literal["composite"] = "composite"
    parts: tuple[CompositePartSpec, ...]
    combine: Literal["mean", "product"] = Field(
        default="mean", description="sum of w s / sum of w, or the product of s ** (w / sum of w)"
    )
    closed: Literal["zero", "minimum"] = Field(
        default="zero", description="the score behind a closed gate: 0, or the lowest score of a closed gate"
    )
    classes_from: str | None = Field(
        default=None, description="the part that determines classes; null: the first one"
    )
    service: SandboxServiceSpec = SandboxServiceSpec()

    @model_validator(mode="after")
    def _consistent(self) -> CompositeRewardSpec:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts={names} name one twice; each needs a name of its own")
        if not any(part.weight for part in self.parts):  # also where there is none
            raise ValueError(f"parts={names} hold no weight above 0: there is nothing to score; raise one")
        if self.classes_from is not None and self.classes_from not in names:
            raise ValueError(f"classes_from={self.classes_from!r} is none of the parts {names}")
        return self


RewardSpec = Annotated[
    VerifierRewardSpec
    | PythonRewardSpec
    | CallableRewardSpec
    | SandboxRewardSpec
    | EngagementRewardSpec
    | HeuristicRewardSpec
    | JudgeRewardSpec
    | HttpRewardSpec
    | CompositeRewardSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("verifier")),
]


HOW_IT_RUNS = frozenset(
    {
        "service", "client", "workers", "timeout_s", "memory_mib", "strict", "deterministic", "cache_path",
        "allow_code_execution", "token_env", "api_key_env", "max_retries", "max_attempts", "concurrency",
        "max_unjudged_share", "prices", "budget",
    }
)  # fmt: skip
"""Settings of a reward, at any depth, that say how it is computed and not which score it gives."""


def reward_identity(reward: Any) -> Any:
    """The settings, as plain JSON values, that tell one reward from another: all but HOW_IT_RUNS."""
    if isinstance(reward, StrictModel):
        reward = reward.model_dump(mode="json")
    if isinstance(reward, Mapping):
        return {key: reward_identity(value) for key, value in reward.items() if key not in HOW_IT_RUNS}
    return [reward_identity(value) for value in reward] if isinstance(reward, list | tuple) else reward


def check_no_service(reward: Any, what: str) -> None:
    """ValueError where a reward that runs within another one asks for replicas of its own.

    The default is accepted: a configuration that was written out in full names it.
    """
    if reward.service != type(reward).model_fields["service"].default:
        raise ValueError(
            f"{what} has a service of its own, but runs in the replicas of the whole reward; set reward.service there"
        )


CompositePartSpec.model_rebuild()
CompositeRewardSpec.model_rebuild()

DiversitySource = Literal["task_class", "task_distance", "embedding", "ngram"]


class DiversitySpec(StrictModel):
    """Source of the diversity of a set."""

    source: DiversitySource = Field(
        default="task_class",
        description="the completion's class; the task's own distance between two completions; 1 - cosine of "
        "sentence embeddings; 1 - Jaccard similarity of n-grams",
    )
    encoder: NameOrPath = Field(
        default="packaged",
        description="encoder of source=embedding: a sentence-transformers directory or hub name, or packaged "
        "(MiniLM)",
    )
    n: int = Field(default=4, ge=1, le=8, description="tokens per gram of source=ngram")


def is_elsewhere(reward: RewardSpec, second_opinion: RewardSpec | None, diversity: DiversitySpec) -> bool:
    """Whether scoring is nothing but waiting for a service on the network: then no replica of ours is needed.

    An encoder of distances does not belong into a rollout worker, so embedding needs one.
    """
    return reward.type == "http" and second_opinion is None and diversity.source != "embedding"
