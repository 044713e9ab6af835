"""From advantages to a scalar: surrogate, KL, entropy, correction of stale samples. Fields of every `algorithm`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polyray.config.base import StrictModel

NARROWEST_CLIP = 0.01
"""Half-width below which the error of an engine's log-probs decides what is clipped."""


class LossSpec(StrictModel):
    """Keys of every objective after its advantages (docs/algorithms.md, Losses)."""

    surrogate: Literal["ppo", "gspo", "cispo", "sapo"] = Field(
        default="ppo",
        description="ppo: clipped token ratio; gspo: clipped sequence ratio (use clip_low 3e-4, clip_high 4e-4 and "
        "proximal=learner); "
        "cispo: capped weight, no token dropped; sapo: soft gate",
    )
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="width of the clip below 1, for ppo and gspo"
    )
    clip_high: float = Field(
        default=0.2, gt=0, description="width of the clip above 1, for ppo and gspo; 0.28 is DAPO's"
    )
    dual_clip: float | None = Field(
        default=None,
        gt=1,
        description="for ppo and gspo: the loss is at most this x |A| if A < 0; 3 is usual",
    )
    cispo_cap: float = Field(default=5.0, gt=0, description="largest weight, for cispo")
    sapo_temperature_positive: float = Field(
        default=1.0, gt=0, description="temperature of the gate for A > 0, for sapo"
    )
    sapo_temperature_negative: float = Field(
        default=1.05, gt=0, description="temperature of the gate for A < 0, for sapo"
    )
    normalisation: Literal["constant", "token", "sequence", "sum"] = Field(
        default="constant",
        description="constant: sum over tokens / max_completion_tokens (Dr.GRPO, exact up to that scale); sum: over "
        "tokens, mean over sequences (exact); token: mean over all tokens of the batch (DAPO); sequence: mean of "
        "per-sequence means (GRPO)",
    )
    kl_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="weight of KL(policy || warm start), in the loss averaged like entropy_coefficient's, in the "
        "reward that of the whole completion",
    )
    kl_placement: Literal["loss", "reward"] = Field(
        default="loss", description="reward: k1 of the whole completion is subtracted from its reward (exact)"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        default="k2",
        description="gradient in the loss of k2: KL(pi||ref); of k3: KL(ref||pi); of k1: none in expectation",
    )
    entropy_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="weight of the policy's entropy at rollout.temperature, averaged as the surrogate is. token: "
        "mean per token; sequence: mean of per-sequence means; sum: mean per sequence of the sum over its tokens; "
        "constant: that / max_completion_tokens",
    )
    covariance: Literal["none", "clip_cov", "kl_cov"] = Field(
        default="none",
        description="tokens whose log-prob and advantage vary together are clipped or held back; costs one more "
        "forward pass per update",
    )
    covariance_share: float = Field(
        default=2e-4, gt=0, le=1, description="share of an update's tokens that is chosen, at least one token"
    )
    covariance_band: tuple[float, float] = Field(
        default=(1.0, 5.0), description="covariances between which tokens are chosen, for clip_cov"
    )
    kl_cov_coefficient: float = Field(
        default=1.0,
        ge=0,
        description="weight of |log ratio| to the learner before the batch's first update, on the tokens of kl_cov",
    )
    proximal: Literal["rollout", "learner"] = Field(
        default="rollout",
        description="start of the ratio: the engine's own log-probs, or the learner's before the first update on "
        "a batch (decoupled PPO)",
    )
    importance_correction: Literal["truncate", "mask", "two_sided", "none"] = Field(
        default="truncate",
        description="correction of the token weights learner / engine. truncate: at most importance_cap (TIS); "
        "mask: tokens above it are left out (MIS); two_sided: tokens below importance_floor, too "
        "(IcePop)",
    )
    importance_cap: float = Field(default=2.0, ge=1, description="largest weight")
    importance_floor: float = Field(default=0.5, ge=0, lt=1, description="smallest weight, for two_sided")
    sequence_mask_band: float | None = Field(
        default=0.5,
        gt=0,
        description="sequences whose |mean log ratio| exceeds it leave the loss and its denominator; null: none",
    )

    @model_validator(mode="after")
    def _fits(self) -> LossSpec:
        if self.kl_placement == "reward" and self.kl_estimator != "k1" and self.kl_coefficient > 0:
            raise ValueError(
                f"kl_placement=reward with kl_estimator={self.kl_estimator}: only k1 has the right gradient in the "
                "reward; set kl_estimator=k1, or kl_placement=loss"
            )
        if self.importance_correction in ("mask", "two_sided") and self.importance_cap <= 1:
            raise ValueError(
                f"importance_cap={self.importance_cap} must be above 1 where tokens are masked; 2 to 5 is usual"
            )
        narrowest = min(self.clip_low, self.clip_high)
        if self.surrogate in ("ppo", "gspo") and self.proximal == "rollout" and narrowest < NARROWEST_CLIP:
            raise ValueError(
                f"clip_low={self.clip_low:g} and clip_high={self.clip_high:g} with proximal=rollout: below "
                f"{NARROWEST_CLIP} the error of the engine's log-probs decides what is clipped; set proximal=learner"
            )
        low, high = self.covariance_band
        if not low < high:
            raise ValueError(f"covariance_band=[{low}, {high}] must ascend; the paper uses [1, 5]")
        return self
