"""The objective: a union on `type`. Defaults are settings that were run, not guesses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel


class PolicyLossSpec(StrictModel):
    """What all objectives share: from advantages to a loss."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.2, gt=0)
    normalisation: Literal["constant", "token", "sequence"] = Field(
        default="constant",
        description="constant: sum over tokens / max_completion_tokens (Dr.GRPO, exact); token: mean over "
        "all tokens of the batch (DAPO); sequence: mean of per-sequence means (GRPO)",
    )
    kl_coefficient: float = Field(
        default=0.0, ge=0, description="weight of KL(policy || warm start) in the loss"
    )
    kl_estimator: Literal["k2", "k3"] = Field(
        default="k2", description="k2: gradient of KL(pi||ref); k3: of KL(ref||pi)"
    )
    importance_cap: float = Field(
        default=2.0, ge=1, description="token weights pi_theta/pi_rollout are truncated here"
    )
    sequence_mask_band: float = Field(
        default=0.5,
        gt=0,
        description="sequences whose |mean log ratio| exceeds it leave the loss and its denominator",
    )


class GrpoSpec(PolicyLossSpec):
    """Group-relative policy optimisation; scale none + constant normalisation is Dr.GRPO (arXiv
    2503.20783)."""

    type: Literal["grpo"] = "grpo"
    scale: Literal["none", "std"] = "none"


class PolychromicSpec(PolicyLossSpec):
    """Set objective F = quality_weight * mean quality + diversity_weight * D_obj over sets of `set_size`.

    D_obj by `objective`: pairwise = mean pairwise distance; product = mean quality x mean pairwise distance;
    cluster = mean quality x distinct classes / set_size. diversity_weight is the lambda of the papers.
    """

    type: Literal["polychromic"] = "polychromic"
    objective: Literal["pairwise", "product", "cluster"]
    quality_weight: float = Field(default=1.0, ge=0)
    diversity_weight: float = Field(ge=0, description="lambda; 0 is leave-one-out GRPO")
    set_size: int = Field(default=4, ge=2, description="k: how many candidates a user sees")

    @model_validator(mode="after")
    def _something_to_optimise(self) -> PolychromicSpec:
        if self.quality_weight == 0 and self.diversity_weight == 0:
            raise ValueError(
                "quality_weight and diversity_weight are both 0: there is nothing to optimise; raise one"
            )
        return self


AlgorithmSpec = Annotated[GrpoSpec | PolychromicSpec, Field(discriminator="type")]
