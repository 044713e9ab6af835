"""Engines that share a GPU: how many fit, and whether their memory fits.

Ray counts shares and places by them. vLLM takes `gpu_memory_utilization` of the whole GPU for any share, and does not
start if that is not free.
"""

from __future__ import annotations

import math

UNITS = 10_000
"""Ray counts in ten-thousandths; whole numbers of them add up without rounding."""
LEFT_BY_ENGINES = 0.9
"""Largest part of a GPU that its engines together should take; each needs a little beside its share."""


def is_share(gpus: float) -> bool:
    """Whether a process that asks Ray for so many GPUs may have to share one."""
    return 0 < gpus < 1


def engines_on_one_gpu(gpus: float, engines: int) -> int:
    """Number of `engines`, each with `gpus`, that one GPU may hold; 1 for whole GPUs or none."""
    if not is_share(gpus):
        return 1
    return min(engines, UNITS // max(1, round(gpus * UNITS)))


def check_room(gpus: tuple[str, float], engines: tuple[str, int], utilization: tuple[str, float]) -> None:
    """Raise ValueError if engines that may share a GPU take more than all of it.

    Each argument is a field's name and its value.

    Example:
        check_room(("gpus_per_worker", 0.5), ("num_workers", 2), ("gpu_memory_utilization", 0.85))  # raises
    """
    together = engines_on_one_gpu(gpus[1], engines[1])
    if together == 1 or together * utilization[1] <= 1:
        return
    most = math.floor(100 * LEFT_BY_ENGINES / together) / 100
    taken = together * utilization[1]
    raise ValueError(
        f"{utilization[0]}={utilization[1]:g} with {gpus[0]}={gpus[1]:g} and {engines[0]}={engines[1]}: {together} "
        f"engines may share one GPU and would take {taken:g} times its memory; "
        f"set {utilization[0]} to {most:g} or less, or {gpus[0]}=1"
    )
