"""Sizes that follow from a configuration, printed by every job's `--check`."""

from __future__ import annotations

from typing import Any

from polyray.capacity.bundles import CPU, total, training_parts
from polyray.capacity.memory import LEARNER_OVERHEAD, dtype_on
from polyray.capacity.micro_batch import micro_batch_line
from polyray.capacity.placement import learner_memory, learner_tokens, training_estimate
from polyray.capacity.shapes import model_mib, shape_of
from polyray.capacity.threads import engine_threads, learner_threads
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
    by_adapter = config.delivery.mode == "adapter" or (
        config.delivery.mode == "auto" and dtype_on(config.model, gpu=False) != "float32"
    )
    copies = 2 if by_adapter else 3  # as read, packed for products, and to merge into
    on_host = 0 if rollout.gpus_per_worker else rollout.kv_cache_mib + copies * (weights or 0)
    per_engine = ENGINE_MIB + on_host
    per_rank = LEARNER_MIB + _learner_mib(config, weights)
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
        "micro_batch": micro_batch_line(config),
        "engine_threads": "{}: {}".format(*engine_threads(rollout, config.model)),
        "learner_threads": "{}: {}".format(*learner_threads(config, config.model)),
        "base_weights_mib": round(weights, 1)
        if weights is not None
        else "unknown until the model is fetched",
        "estimated_memory_mib": {
            "engine": round(per_engine),
            "learner_rank": round(per_rank),
            "all": round(total),
        },
        **({"gpu_estimate": on_gpus} if on_gpus else {}),
    }


def _learner_mib(config: TrainConfig, weights: float | None) -> float:
    """Host memory of a rank beside its imports."""
    shape = shape_of(config.model)
    if config.learner.use_gpu or shape is None:  # loaded here, then moved
        return weights or 0.0
    parts = learner_memory(config.model, shape, config.learner, *learner_tokens(config))
    return (sum(parts.values()) - LEARNER_OVERHEAD) / 2**20


def required_cpus(config: TrainConfig) -> float:
    """Logical CPUs that a run places: engines, learner ranks, reward replicas."""
    return total(training_parts(config), CPU)
