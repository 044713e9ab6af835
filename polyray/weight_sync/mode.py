"""Merged or adapter weight sync: one rule by base, dtype and device.

merged     the engine's weights are replaced once the groups in flight are done
adapter    the engine holds several versions side by side and never waits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LINEAR_MODULES, NF4, ModelSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError
from polyray.models.base import Base, held_as

Mode = Literal["adapter", "merged"]


@dataclass(frozen=True, slots=True)
class SyncChoice:
    """Mode of weight sync, its reason, and the dtype in which engines hold the base.

    Example:
        SyncChoice("merged", "on a CPU sampling with an adapter is several times slower", "float32")
    """

    mode: Mode
    reason: str
    dtype: str

    def lora_rank(self, rank: int) -> int | None:
        """`rank` for engines that load adapters; None for engines that get merged weights."""
        return rank if self.mode == "adapter" else None


def choose_sync(model: ModelSpec, delivery: DeliverySpec, rollout: RolloutSpec, base: Base) -> SyncChoice:
    """Mode of weight sync for engines of this base.

    Raises ConfigError for a merge that is impossible, and for a base that cannot be quantised as asked.
    """
    dtype = held_as(model, base, rollout.gpus_per_worker > 0)
    no_merge = None
    if rollout.engine_kind == "vllm_async":
        no_merge = "an engine of several processes takes adapters only"
    elif dtype == NF4:
        no_merge = "model.quantization=nf4 holds the base in 4 bits, which nothing can be merged into"
    elif base.is_quantised:
        no_merge = "a quantised base cannot be merged into"
    if delivery.mode == "merged" and no_merge is not None:
        raise ConfigError(f"delivery.mode=merged cannot be: {no_merge}; set delivery.mode=adapter")
    if delivery.mode != "auto":
        return SyncChoice(delivery.mode, "delivery.mode says so", dtype)
    if no_merge is not None:
        return SyncChoice("adapter", no_merge, dtype)
    if rollout.engine == "simulated":
        return SyncChoice("merged", "a simulated engine has no weights", dtype)
    others = sorted(set(model.lora.target_modules) - set(LINEAR_MODULES))
    if others:
        return SyncChoice("merged", f"the engine takes no adapters on {others}", dtype)
    if dtype != "float32":
        return SyncChoice("adapter", f"weights in {dtype} lose small updates when they are merged", dtype)
    if rollout.gpus_per_worker:
        return SyncChoice("adapter", "a GPU samples with adapters at little cost, and no group waits", dtype)
    return SyncChoice("merged", "on a CPU sampling with an adapter is several times slower", dtype)
