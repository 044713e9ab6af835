"""Threads of engines and learners on CPUs, from the cores of the machine that starts a run."""

from __future__ import annotations

import os
from typing import TypeVar

from polyray.capacity.shapes import model_mib
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import SftConfig, TrainConfig

ConfigT = TypeVar("ConfigT", TrainConfig, SftConfig)

WORTH_THREADS_MIB = 100.0
"""Size of a base from which engines get more than one thread, and learners more than two. SmolLM2-135M samples 1.6
times as fast with two. The embedded model gains .03 of .17 s, and its short steps share the cores with the other
processes of a run."""
FEW = 2
"""Threads of a learner that does not need more."""


def engine_threads(rollout: RolloutSpec, model: ModelSpec) -> tuple[int, str]:
    """(threads of one engine, reason)."""
    if rollout.threads_per_worker is not None:
        return rollout.threads_per_worker, "rollout.threads_per_worker says so"
    if rollout.gpus_per_worker:
        return 1, "the GPU computes"
    if rollout.max_staleness:
        return 1, "the learner computes at the same time (rollout.max_staleness)"
    if not _is_large(model):
        return 1, f"the base is smaller than {WORTH_THREADS_MIB:g} MiB, or not on this machine"
    return max(1, _cores() // rollout.num_workers), f"engines and learner take turns on {_cores()} cores"


def learner_threads(config: TrainConfig | SftConfig, model: ModelSpec) -> tuple[int, str]:
    """(threads of one rank, reason)."""
    learner = config.learner
    if learner.num_threads is not None:
        return learner.num_threads, "learner.num_threads says so"
    if learner.use_gpu:
        return FEW, "the GPU computes"
    if not _is_large(model):
        return FEW, f"the base is smaller than {WORTH_THREADS_MIB:g} MiB, or not on this machine"
    rollout = config.rollout if isinstance(config, TrainConfig) else None
    if rollout is None or not rollout.max_staleness or rollout.gpus_per_worker:
        taken, reason = 0, f"ranks have {_cores()} cores"
    else:
        taken = rollout.num_workers * engine_threads(rollout, model)[0]
        reason = f"engines compute at the same time on {taken} of {_cores()} cores (rollout.max_staleness)"
    return max(1, (_cores() - taken) // learner.num_workers), reason


def with_threads(rollout: RolloutSpec, model: ModelSpec) -> RolloutSpec:
    """The same engines with their number of threads decided."""
    return rollout.model_copy(update={"threads_per_worker": engine_threads(rollout, model)[0]})


def with_learner_threads(config: ConfigT, model: ModelSpec) -> ConfigT:
    """The configuration with the threads of its learner decided."""
    learner = config.learner.model_copy(update={"num_threads": learner_threads(config, model)[0]})
    return config.model_copy(update={"learner": learner})


def sharing_cores(config: TrainConfig, runs: int) -> TrainConfig:
    """The configuration of one of several runs at the same time: threads that it leaves open share the cores."""
    if runs == 1:
        return config
    spec, threads = config.learner, learner_threads(config, config.model)[0]
    if spec.num_threads is None and not spec.use_gpu and _is_large(config.model):
        threads = max(1, threads // runs)
    learner = spec.model_copy(update={"num_threads": threads})
    engines = {"threads_per_worker": config.rollout.threads_per_worker or 1}
    return config.model_copy(
        update={"learner": learner, "rollout": config.rollout.model_copy(update=engines)}
    )


def _is_large(model: ModelSpec) -> bool:
    return (model_mib(model) or 0.0) >= WORTH_THREADS_MIB


def _cores() -> int:
    return len(os.sched_getaffinity(0))
