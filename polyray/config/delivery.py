"""Weight sync: delivery of a new policy version to the engines, and its verification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from polyray.config.base import StrictModel
from polyray.config.model import ModelSpec


class DeliverySpec(StrictModel):
    """Weight sync: adapter bytes travel, and the mode says what a worker does with them."""

    mode: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="merged: the engine's weights are replaced, once the groups in flight are done; adapter: the "
        "engine holds several versions side by side, and never waits; auto: merged for "
        "float32 on a CPU, adapter on a GPU and for 16-bit and quantised bases",
    )
    num_probes: int = Field(
        default=2,
        ge=1,
        description="fixed sequences with log-probs that verify a version; each costs time at every version",
    )
    timeout_s: float = Field(default=60.0, gt=0, description="a worker that takes longer is replaced")
    keep_versions: Literal["checkpoints", "all"] = Field(
        default="checkpoints", description="which versions/<v>/ directories are written"
    )


def check_quantised(model: ModelSpec, mode: str, tensor_parallel_size: int) -> None:
    """Raises ValueError where engines could not hold the base as the learner does."""
    if model.quantization == "none":
        return
    if mode == "merged":
        raise ValueError(
            f"delivery.mode=merged with model.quantization={model.quantization}: an adapter cannot be merged into "
            "4-bit weights; set delivery.mode=adapter"
        )
    if tensor_parallel_size > 1:
        raise ValueError(
            f"tensor_parallel_size={tensor_parallel_size} with model.quantization={model.quantization}: each device "
            "would quantise its part of a matrix by itself, unlike the learner; set tensor_parallel_size=1"
        )
