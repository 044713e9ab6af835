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

    @property
    def min_samples(self) -> int:
        """Scored completions a group needs to teach anything."""
        return 2

    @property
    def needs_classes(self) -> bool:
        """Whether the objective counts classes."""
        return False

    @property
    def needs_distances(self) -> bool:
        """Whether the objective looks at pairwise distances."""
        return False


class GrpoSpec(PolicyLossSpec):
    """Group-relative policy optimisation; scale none + constant normalisation is Dr.GRPO (arXiv
    2503.20783)."""

    type: Literal["grpo"] = "grpo"
    scale: Literal["none", "std"] = "none"
    std: Literal["sample", "population"] = Field(default="sample", description="of scale: std; ddof 1 or 0")


class RlooSpec(PolicyLossSpec):
    """Reward minus the mean of the others (arXiv 2402.14740)."""

    type: Literal["rloo"] = "rloo"


class MaxRlSpec(PolicyLossSpec):
    """(r - mean) / mean: maximum likelihood of being right (arXiv 2602.02710). Rewards must not be negative."""

    type: Literal["maxrl"] = "maxrl"


class BestMinusSecondSpec(PolicyLossSpec):
    """The best sample gets its lead over the second, verl's grpo_passk (arXiv 2503.19595)."""

    type: Literal["best_minus_second"] = "best_minus_second"
    scale: Literal["none", "std"] = "none"


class OfSetsSpec(PolicyLossSpec):
    """What objectives of sets share."""

    set_size: int = Field(default=4, ge=1, description="k: how many candidates a user sees")

    @property
    def min_samples(self) -> int:
        """A set and one sample outside it."""
        return self.set_size + 1


class PassAtKSpec(OfSetsSpec):
    """Pass@k Training, analytic (arXiv 2508.10751); rewards of 1 are correct."""

    type: Literal["pass_at_k"] = "pass_at_k"
    scale: Literal["std", "none"] = "std"


class PkpoSpec(OfSetsSpec):
    """PKPO: the gradient of the best of k (arXiv 2505.15201)."""

    type: Literal["pkpo"] = "pkpo"
    variant: Literal["sloo_minus_one", "sloo", "s"] = "sloo_minus_one"


class PolyEpoSpec(OfSetsSpec):
    """Mean quality x distinct classes / k at the scale of one's choice; mean is the published one
    (arXiv 2604.17654)."""

    type: Literal["poly_epo"] = "poly_epo"
    scale: Literal["unbiased", "mean", "sum"] = "mean"

    @property
    def needs_classes(self) -> bool:
        """It counts them."""
        return True


class PolychromicPpoSpec(OfSetsSpec):
    """Random sets whose members share one advantage, on mean quality x distinct classes / k: the estimator of
    polychromic PPO (arXiv 2509.25424)."""

    type: Literal["polychromic_ppo"] = "polychromic_ppo"
    num_sets: int = Field(default=4, ge=2, description="M, drawn anew for every group")
    unbiased_scale: bool = Field(default=True, description="divide by the estimator's known constant")

    @property
    def needs_classes(self) -> bool:
        """It counts them."""
        return True


class ShapedSpec(PolicyLossSpec):
    """Heuristic: r + diversity_weight x mean distance to the others, with the group's mean as baseline."""

    type: Literal["shaped"] = "shaped"
    diversity_weight: float = Field(ge=0, description="about half of it takes effect (algorithms/README.md)")

    @property
    def needs_distances(self) -> bool:
        """It averages them."""
        return True


class DarlingSpec(PolicyLossSpec):
    """Heuristic: quality x mean distance to the others (arXiv 2509.02534)."""

    type: Literal["darling"] = "darling"
    combine: Literal["multiply", "add"] = "multiply"

    @property
    def needs_distances(self) -> bool:
        """It averages them."""
        return True


class UnlikelinessSpec(PolicyLossSpec):
    """Heuristic: the likelier a right answer, the less it pays (arXiv 2506.02355)."""

    type: Literal["unlikeliness"] = "unlikeliness"
    penalty: float = Field(default=0.25, ge=0, le=1)
    scale: Literal["none", "std"] = "std"


OF_CLASSES = ("cluster", "distinct_correct", "coverage", "entropy", "simpson")
OF_DISTANCES = ("pairwise", "product", "gated", "determinant", "logdet", "vendi")


class PolychromicSpec(OfSetsSpec):
    """Set objective F = quality_weight * mean quality + diversity_weight * D over sets of `set_size`.

    D by `objective`, e.g. pairwise = mean pairwise distance; product = mean quality x mean pairwise distance;
    cluster = mean quality x distinct classes / set_size; all of them are in polyray/algorithms/README.md.
    diversity_weight is the lambda of the papers.
    """

    type: Literal["polychromic"] = "polychromic"
    objective: Literal[
        "cluster", "distinct_correct", "coverage", "entropy", "simpson", "pairwise", "product", "gated",
        "determinant", "logdet", "vendi", "max", "distinct_n", "self_bleu",
    ]  # fmt: skip
    quality_weight: float = Field(default=1.0, ge=0)
    diversity_weight: float = Field(ge=0, description="lambda; 0 is leave-one-out GRPO")
    set_size: int = Field(default=4, ge=2, description="k: how many candidates a user sees")
    quality_floor: float = Field(
        default=0.0, ge=0, le=1, description="below this quality a completion's diversity pays nothing"
    )
    num_subsets: int = Field(
        default=70, ge=1, description="sets evaluated per group by objectives without a closed form"
    )

    @property
    def needs_classes(self) -> bool:
        """By objective."""
        return self.objective in OF_CLASSES

    @property
    def needs_distances(self) -> bool:
        """By objective."""
        return self.objective in OF_DISTANCES

    @model_validator(mode="after")
    def _something_to_optimise(self) -> PolychromicSpec:
        if self.quality_weight == 0 and self.diversity_weight == 0:
            raise ValueError(
                "quality_weight and diversity_weight are both 0: there is nothing to optimise; raise one"
            )
        return self


AlgorithmSpec = Annotated[
    GrpoSpec | RlooSpec | MaxRlSpec | BestMinusSecondSpec | PassAtKSpec | PkpoSpec | PolyEpoSpec
    | PolychromicSpec | PolychromicPpoSpec | ShapedSpec | DarlingSpec | UnlikelinessSpec,
    Field(discriminator="type"),
]  # fmt: skip
