"""Threads of CPU engines, from the cores of the machine that starts a run."""

from __future__ import annotations

import os

from polyray.capacity.shapes import model_mib
from polyray.config.model import ModelSpec
from polyray.config.rollout import RolloutSpec

WORTH_THREADS_MIB = 100.0
"""Size of a base from which engines get more than one thread. SmolLM2-135M samples 1.6 times as fast with two. The
embedded model gains .03 of .17 s, and its short steps share the cores with the other processes of a run."""


def engine_threads(rollout: RolloutSpec, model: ModelSpec) -> tuple[int, str]:
    """(threads of one engine, reason)."""
    if rollout.threads_per_worker is not None:
        return rollout.threads_per_worker, "rollout.threads_per_worker says so"
    if rollout.gpus_per_worker:
        return 1, "the GPU computes"
    if rollout.max_staleness:
        return 1, "the learner computes at the same time (rollout.max_staleness)"
    if (model_mib(model) or 0.0) < WORTH_THREADS_MIB:
        return 1, f"the base is smaller than {WORTH_THREADS_MIB:g} MiB, or not on this machine"
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // rollout.num_workers), f"engines and learner take turns on {cores} cores"


def with_threads(rollout: RolloutSpec, model: ModelSpec) -> RolloutSpec:
    """The same engines with their number of threads decided."""
    return rollout.model_copy(update={"threads_per_worker": engine_threads(rollout, model)[0]})
