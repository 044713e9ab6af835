"""Merged or adapter delivery: the decision as a value, and the file that keeps it for a run's life.

settled_mode     what the base, the engine or the configuration decide, without measuring
choose_mode      the rest, from what one engine showed (polyray/rollout/vllm_measure.py)
recorded_choice, record_choice    delivery.json of a run directory
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LINEAR_MODULES, NF4, LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError
from polyray.runs.atomic import atomic_write_json

Mode = Literal["adapter", "merged"]
RECORD = "delivery.json"


@dataclass(frozen=True, slots=True)
class DeliveryMeasurements:
    """One engine's seconds for one policy version: sampling what a worker samples under it, and taking it on.

    Example:
        DeliveryMeasurements(sample_s=1.2, sample_adapter_s=7.1, load_s=.01, reload_s=.03, drain_share=.2)
    """

    sample_s: float
    """Without an adapter, the engine full."""
    sample_adapter_s: float
    """With one."""
    load_s: float
    """Taking on an adapter beside others."""
    reload_s: float
    """Merging it into the base and reloading."""
    drain_share: float
    """Share of the sampling time that is lost where the groups in flight must finish first."""


@dataclass(frozen=True, slots=True)
class DeliveryChoice:
    """The mode of a run, and why.

    Example:
        DeliveryChoice(mode="merged", reason="measured: ...", measurements=DeliveryMeasurements(...))
    """

    mode: Mode
    reason: str
    measurements: DeliveryMeasurements | None = None


def settled_mode(
    delivery: DeliverySpec, rollout: RolloutSpec, lora: LoraSpec, model_dir: Path, dtype: str
) -> DeliveryChoice | None:
    """The choice where nothing need be measured, else None. ConfigError where what is asked for cannot be."""
    reason = _only_adapter(rollout, model_dir, dtype)
    if delivery.mode == "merged" and reason is not None:
        raise ConfigError(f"delivery.mode=merged cannot be: {reason}; set delivery.mode=adapter")
    if delivery.mode != "auto":
        return DeliveryChoice(delivery.mode, "delivery.mode says so")
    if reason is not None:
        return DeliveryChoice("adapter", reason)
    if rollout.engine == "simulated":
        return DeliveryChoice("merged", "a simulated engine has no weights")
    others = sorted(set(lora.target_modules) - set(LINEAR_MODULES))
    if others:
        return DeliveryChoice("merged", f"the engine takes no adapters on {others}")
    if dtype != "float32":
        reason = f"weights in {dtype} lose small updates when they are merged"
        return DeliveryChoice("adapter", reason)
    return None


def choose_mode(seen: DeliveryMeasurements) -> tuple[Mode, str]:
    """(mode, reason): whichever needs less time for a version, from its arrival to the next."""
    merged_s = seen.sample_s / (1 - seen.drain_share) + seen.reload_s
    adapter_s = seen.sample_adapter_s + seen.load_s
    mode: Mode = "merged" if merged_s <= adapter_s else "adapter"
    return mode, (
        f"measured, per version: merged {merged_s:.3g} s (sampling {seen.sample_s:.3g} s, "
        f"{seen.drain_share:.0%} of the time lost to draining, reload {seen.reload_s:.3g} s), adapter "
        f"{adapter_s:.3g} s (sampling {seen.sample_adapter_s:.3g} s, load {seen.load_s:.3g} s)"
    )


def drain_share(rollout: RolloutSpec) -> float:
    """Share of an engine's time that is lost when it runs empty once per version.

    Lengths are taken as uniform up to the limit. While n completions per version pass through m places, the
    places work n / m x half the limit, and wait half the limit for the longest one.
    """
    if rollout.max_staleness == 0:  # then a version comes when its predecessor's groups are done anyway
        return 0.0
    completions = completions_per_version(rollout)
    places = min(rollout.max_sequences, completions * (rollout.max_staleness + 1))
    return 1 / (1 + completions / places)


def completions_per_version(rollout: RolloutSpec) -> int:
    """What one worker samples of a learner step's batch."""
    return max(1, rollout.prompts_per_step * rollout.group_size // rollout.num_workers)


def record_choice(run_dir: Path, choice: DeliveryChoice) -> None:
    """Writes delivery.json. ConfigError where the run began in the other mode."""
    before = recorded_choice(run_dir)
    if before is None:
        atomic_write_json(run_dir / RECORD, asdict(choice))
    elif before.mode != choice.mode:
        raise ConfigError(
            f"{run_dir} began with {before.mode} delivery and the engines are built for {choice.mode}; "
            f"set delivery.mode={before.mode}, or start a run of another name"
        )


def recorded_choice(run_dir: Path) -> DeliveryChoice | None:
    """What delivery.json says; None where there is none."""
    file = run_dir / RECORD
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    seen = values.pop("measurements")
    return DeliveryChoice(**values, measurements=None if seen is None else DeliveryMeasurements(**seen))


def _only_adapter(rollout: RolloutSpec, model_dir: Path, dtype: str) -> str | None:
    """Why these engines cannot merge; None where they can."""
    if rollout.engine_kind == "vllm_async":
        return "an engine of several processes takes adapters only"
    if dtype == NF4:
        return "model.quantization=nf4 holds the base in 4 bits, which nothing can be merged into"
    file = model_dir / "config.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("quantization_config"):
        return "a quantised base cannot be merged into"
    return None
