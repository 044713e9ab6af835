"""polyray trains language models for the way they are used: k candidates are generated and one is picked.

    run = polyray.train(model="embedded", prompts=PROMPTS, reward=FUNCTION, steps=20)
    result = polyray.evaluate(run, ks=[1, 8])

The functions are those of polyray/api.py and are imported when they are used. The layers are in pyproject.toml.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polyray.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LearnerError,
    MissingFile,
    PolyrayError,
    ResourceError,
    RewardError,
    RolloutError,
    Stopped,
)

if TYPE_CHECKING:
    from polyray.api import Evaluation, Run, Service, Sweep, evaluate, serve, sft, sweep, train

__version__ = "0.1.0"

_OF_API = ("Evaluation", "Run", "Service", "Sweep", "evaluate", "serve", "sft", "sweep", "train")

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Evaluation",
    "LearnerError",
    "MissingFile",
    "PolyrayError",
    "ResourceError",
    "RewardError",
    "RolloutError",
    "Run",
    "Service",
    "Stopped",
    "Sweep",
    "evaluate",
    "serve",
    "sft",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _OF_API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("polyray.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
