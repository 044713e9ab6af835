"""Weight sync: delivery of a new policy version to the engines, and its verification."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from polyray.config.base import StrictModel
from polyray.config.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limit of the difference between log-probs of engine and learner.

    Example:
        Tolerance(nats=5e-2, judged="mean", share=0.05)
    """

    nats: float
    judged: Literal["largest", "mean"] = "largest"
    """Statistic of the differences over all tokens that the tolerance limits.

    In 16 bits the log-prob of an improbable token is itself off by tenths: on the embedded model in bfloat16 the
    largest of a set of probes was up to .74, their mean up to .016.
    """
    share: float = 0.0
    """Share of the spread of the learner's log-probs over tokens; tolerated where it is more than `nats`. The
    noise of 16 bits grows with a model's depth and its logits: SmolLM2-135M on a CPU differs by .04 to .09 in the
    mean, which is 1 to 2 % of the spread; weights of another model differ by about the whole spread."""


class DeliverySpec(StrictModel):
    """Weight sync: adapter bytes travel, and the mode says what a worker does with them."""

    mode: Literal["auto", "adapter", "merged"] = Field(
        default="auto",
        description="merged: the engine's weights are replaced, once the groups in flight are done; adapter: the "
        "engine holds several versions side by side, and never waits; auto: merged for "
        "float32 on a CPU, adapter on a GPU and for 16-bit and quantised bases",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="|engine - learner| log-prob of fixed tokens that counts as served, in nats: in float32 the "
        "largest (default 1e-4), in bfloat16 and nf4, where single tokens differ by much, the mean (default "
        "5e-2, or a twentieth of the spread of the log-probs where that is more)",
    )
    num_probes: int = Field(
        default=4,
        ge=1,
        description="fixed sequences with log-probs that verify a version; each costs time at every version",
    )
    timeout_s: float = Field(default=60.0, gt=0, description="a worker that takes longer is replaced")
    keep_versions: Literal["checkpoints", "all"] = Field(
        default="checkpoints", description="which versions/<v>/ directories are written"
    )

    def tolerance_for(self, dtype: str) -> Tolerance:
        """Tolerance for engines of this dtype."""
        usual = Tolerance(1e-4, "largest") if dtype == "float32" else Tolerance(5e-2, "mean", share=0.05)
        return usual if self.tolerance is None else replace(usual, nats=self.tolerance, share=0.0)


def check_quantised(model: ModelSpec, delivery: DeliverySpec, tensor_parallel_size: int) -> None:
    """Raises ValueError where engines could not hold the base as the learner does."""
    if model.quantization == "none":
        return
    if delivery.mode == "merged":
        raise ValueError(
            f"delivery.mode=merged with model.quantization={model.quantization}: an adapter cannot be merged into "
            "4-bit weights; set delivery.mode=adapter"
        )
    if tensor_parallel_size > 1:
        raise ValueError(
            f"tensor_parallel_size={tensor_parallel_size} with model.quantization={model.quantization}: each device "
            "would quantise its part of a matrix by itself, unlike the learner; set tensor_parallel_size=1"
        )
