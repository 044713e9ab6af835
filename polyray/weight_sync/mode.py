"""Merged or adapter weight sync: one rule by base, dtype and device.

merged     the engine's weights are replaced once the groups in flight are done
adapter    the engine holds several versions side by side and never waits
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LINEAR_MODULES, NF4, LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError

Mode = Literal["adapter", "merged"]


@dataclass(frozen=True, slots=True)
class SyncChoice:
    """Mode of a run and its reason.

    Example:
        SyncChoice(mode="merged", reason="on a CPU sampling with an adapter is several times slower")
    """

    mode: Mode
    reason: str


def choose_mode(
    delivery: DeliverySpec, rollout: RolloutSpec, lora: LoraSpec, model_dir: Path, dtype: str
) -> SyncChoice:
    """Mode for engines of this base and dtype. Raises ConfigError for a merge that is impossible."""
    reason = _only_adapter(rollout, model_dir, dtype)
    if delivery.mode == "merged" and reason is not None:
        raise ConfigError(f"delivery.mode=merged cannot be: {reason}; set delivery.mode=adapter")
    if delivery.mode != "auto":
        return SyncChoice(delivery.mode, "delivery.mode says so")
    if reason is not None:
        return SyncChoice("adapter", reason)
    if rollout.engine == "simulated":
        return SyncChoice("merged", "a simulated engine has no weights")
    others = sorted(set(lora.target_modules) - set(LINEAR_MODULES))
    if others:
        return SyncChoice("merged", f"the engine takes no adapters on {others}")
    if dtype != "float32":
        return SyncChoice("adapter", f"weights in {dtype} lose small updates when they are merged")
    if rollout.gpus_per_worker:
        return SyncChoice(
            "adapter", "on a GPU an adapter costs little, and groups in flight need not finish first"
        )
    return SyncChoice("merged", "on a CPU sampling with an adapter is several times slower")


def _only_adapter(rollout: RolloutSpec, model_dir: Path, dtype: str) -> str | None:
    """Why these engines cannot merge; None if they can."""
    if rollout.engine_kind == "vllm_async":
        return "an engine of several processes takes adapters only"
    if dtype == NF4:
        return "model.quantization=nf4 holds the base in 4 bits, which nothing can be merged into"
    file = model_dir / "config.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("quantization_config"):
        return "a quantised base cannot be merged into"
    return None
