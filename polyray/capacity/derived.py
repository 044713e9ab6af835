"""Sizes that follow from a configuration, printed by every job's `--check`."""

from __future__ import annotations

from typing import Any

from polyray.capacity.bundles import CPU, total, training_parts
from polyray.capacity.placement import training_estimate
from polyray.capacity.shapes import model_mib
from polyray.capacity.threads import engine_threads
from polyray.config.run import TrainConfig

ENGINE_MIB = 1000
"""Resident memory of one in-process CPU engine without weights and cache, measured."""
LEARNER_MIB = 900
"""Resident memory of one learner rank's imports, measured."""
RAY_MIB = 1200
"""Ray's own processes, the Serve controller, proxy and one replica, measured."""


def derived_sizes(config: TrainConfig) -> dict[str, Any]:
    """Groups, completions and tokens per step, logical CPUs, and an estimate of memory; with GPUs, theirs too."""
    rollout, learner = config.rollout, config.learner
    completions = rollout.prompts_per_step * rollout.group_size
    weights = model_mib(config.model)
    on_host = 0 if rollout.gpus_per_worker else rollout.kv_cache_mib + 2 * (weights or 0)
    per_engine = ENGINE_MIB + on_host
    per_rank = LEARNER_MIB + (1 if learner.use_gpu else 2) * (weights or 0)  # loaded here, then moved
    total = (
        RAY_MIB
        + config.ray.object_store_mib
        + rollout.num_workers * per_engine
        + learner.num_workers * per_rank
    )
    on_gpus = training_estimate(config)
    return {
        "groups_per_step": rollout.prompts_per_step,
        "completions_per_step": completions,
        "max_tokens_per_step": completions * rollout.max_completion_tokens,
        "groups_in_run": rollout.prompts_per_step * learner.steps,
        "max_groups_in_flight": (config.rollout.max_staleness + 1) * rollout.prompts_per_step,
        "logical_cpus_needed": required_cpus(config),
        "engine_threads": "{}: {}".format(*engine_threads(rollout, config.model)),
        "base_weights_mib": round(weights, 1)
        if weights is not None
        else "unknown until the model is fetched",
        "estimated_memory_mib": round(total),
        **({"gpu_estimate": on_gpus} if on_gpus else {}),
    }


def required_cpus(config: TrainConfig) -> float:
    """Logical CPUs that a run places: engines, learner ranks, reward replicas."""
    return total(training_parts(config), CPU)
