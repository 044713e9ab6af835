"""How completions are scored, and where diversity comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from polyray.config.base import StrictModel, default_type
from polyray.config.service import SandboxServiceSpec, ServiceSpec


class VerifierRewardSpec(StrictModel):
    """The task's own verifier."""

    type: Literal["verifier"] = "verifier"
    service: ServiceSpec = ServiceSpec()


class PythonRewardSpec(StrictModel):
    """A function of the user's: `score(items: list[dict]) -> list[float | dict]`, carried to the workers."""

    type: Literal["python"] = "python"
    path: str = Field(description="file and function, e.g. my_reward.py:score")
    service: ServiceSpec = ServiceSpec()

    @field_validator("path")
    @classmethod
    def _file_and_function(cls, value: str) -> str:
        file, _, function = value.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError(f"reward.path={value!r} is not FILE.py:FUNCTION, e.g. my_reward.py:score")
        return value


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
        description="tests and program in two processes: only builtin and numpy values count as returned",
    )
    service: SandboxServiceSpec = SandboxServiceSpec()


RewardSpec = Annotated[
    VerifierRewardSpec | PythonRewardSpec | SandboxRewardSpec,
    Field(discriminator="type"),
    BeforeValidator(default_type("verifier")),
]


DiversitySource = Literal["task_class", "task_distance", "embedding", "ngram"]


class DiversitySpec(StrictModel):
    """Where the diversity of a set comes from."""

    source: DiversitySource = Field(
        default="task_class",
        description="the completion's class; the task's own distance between two completions; 1 - cosine of "
        "sentence embeddings; 1 - Jaccard similarity of n-grams",
    )
    encoder: str = Field(
        default="packaged",
        description="of embedding: a sentence-transformers directory or hub name, or packaged (MiniLM)",
    )
    n: int = Field(default=4, ge=1, le=8, description="of ngram: tokens per gram")
