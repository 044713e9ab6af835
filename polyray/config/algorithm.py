"""The objective: a union on `type`, or a preset (presets.py). Defaults are settings that were run, not guesses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from polyray.config.objective import ObjectiveSpec, OfSetsSpec
from polyray.config.presets import expanded


class GrpoSpec(ObjectiveSpec):
    """Group-relative policy optimisation; scale none + constant normalisation is Dr.GRPO (arXiv
    2503.20783)."""

    type: Literal["grpo"] = "grpo"
    focal_gamma: float = Field(
        default=0.0,
        ge=0,
        description="advantages x (1 - share of right completions) to this power, F-GRPO (arXiv 2602.06717)",
    )
    mode_threshold: float | None = Field(
        default=None,
        description="completions with this reward or more are worth the same under the KL in the reward, however "
        "unlikely the warm start finds them: MARA (arXiv 2510.20817); null is off",
    )

    @property
    def of_passes(self) -> tuple[str, str] | None:
        """focal_gamma, which counts right completions."""
        return (f"focal_gamma={self.focal_gamma:g}", "remove it") if self.focal_gamma > 0 else None


class RlooSpec(ObjectiveSpec):
    """Reward minus the mean of the others (arXiv 2402.14740)."""

    type: Literal["rloo"] = "rloo"


class MaxRlSpec(ObjectiveSpec):
    """(r - mean) / mean: maximum likelihood of being right (arXiv 2602.02710). Rewards must not be negative."""

    type: Literal["maxrl"] = "maxrl"


class ReinforceSpec(ObjectiveSpec):
    """REINFORCE without a baseline from the group, right samples weighted (arXiv 2506.01347); rewards in [0, 1].

    dynamic_sampling replaces groups whose advantages are 0.
    """

    type: Literal["reinforce"] = "reinforce"
    positive_weight: float = Field(
        default=1.0,
        ge=0,
        description="advantage of a right sample where a wrong one has -1: 0 is NSR, 0.1 W-REINFORCE, 1 rewards of "
        "+1 and -1",
    )

    @model_validator(mode="after")
    def _is_not_scaled(self) -> ReinforceSpec:
        if self.scale != "none":
            raise ValueError(
                f"scale={self.scale}: without a baseline all advantages may be equal, with a deviation of 0; set "
                "scale=none"
            )
        return self


class BestMinusSecondSpec(ObjectiveSpec):
    """The best sample gets its lead over the second, verl's grpo_passk (arXiv 2503.19595)."""

    type: Literal["best_minus_second"] = "best_minus_second"


class PassAtKSpec(OfSetsSpec):
    """Pass@k Training, analytic (arXiv 2508.10751); rewards of 1 are correct."""

    type: Literal["pass_at_k"] = "pass_at_k"
    scale: Literal["none", "group", "batch"] = Field(
        default="group", description="group: by the paper's sigma, that of sets of k"
    )

    @property
    def of_passes(self) -> tuple[str, str] | None:
        """The type: a completion is right or wrong."""
        return "type=pass_at_k", "use pkpo, which takes any reward"


class PkpoSpec(OfSetsSpec):
    """PKPO: the gradient of the best of k (arXiv 2505.15201)."""

    type: Literal["pkpo"] = "pkpo"
    variant: Literal["sloo_minus_one", "sloo", "s"] = Field(
        default="sloo_minus_one",
        description="estimator, in falling order of variance for max: s, sloo, sloo_minus_one",
    )


class PolyEpoSpec(OfSetsSpec):
    """Mean quality x distinct classes / k at the scale of one's choice; mean is the published one
    (arXiv 2604.17654)."""

    type: Literal["poly_epo"] = "poly_epo"
    credit_scale: Literal["unbiased", "mean", "sum"] = Field(
        default="mean", description="scale of the credits: unbiased, or mean or sum as published"
    )

    @property
    def needs_classes(self) -> bool:
        """True: the objective counts classes."""
        return True


class PolychromicPpoSpec(OfSetsSpec):
    """Random sets with one advantage for all members, on mean quality x distinct classes / k.

    The estimator of polychromic PPO (arXiv 2509.25424).
    """

    type: Literal["polychromic_ppo"] = "polychromic_ppo"
    num_sets: int = Field(default=4, ge=2, description="M, drawn anew for every group")
    unbiased_scale: bool = Field(default=True, description="divide by the estimator's known constant")

    @property
    def needs_classes(self) -> bool:
        """True: the objective counts classes."""
        return True


class SetPoSpec(ObjectiveSpec):
    """GRPO + diversity_weight x (diversity of the group - diversity without the completion) (arXiv 2602.01062)."""

    type: Literal["setpo"] = "setpo"
    diversity_weight: float = Field(
        default=1.0, ge=0, description="lambda, weight of a completion's share in the group's diversity"
    )
    scale: Literal["none", "group", "batch"] = Field(
        default="group",
        description="group: rewards, not diversity, by the standard deviation of the group's rewards",
    )

    @property
    def needs_distances(self) -> bool:
        """True: the objective averages similarities."""
        return True


class ShapedSpec(ObjectiveSpec):
    """Heuristic: r + diversity_weight x mean distance to the others, with the group's mean as baseline."""

    type: Literal["shaped"] = "shaped"
    diversity_weight: float = Field(
        ge=0, description="weight of the mean distance; about half of it takes effect (docs/algorithms.md)"
    )

    @property
    def needs_distances(self) -> bool:
        """True: the objective averages distances."""
        return True


class DarlingSpec(ObjectiveSpec):
    """Heuristic: quality x mean distance to the others (arXiv 2509.02534)."""

    type: Literal["darling"] = "darling"
    combine: Literal["multiply", "add"] = Field(
        default="multiply", description="how quality and diversity are combined"
    )

    @property
    def needs_distances(self) -> bool:
        """True: the objective averages distances."""
        return True


class UnlikelinessSpec(ObjectiveSpec):
    """Heuristic: the likelier a right answer, the less it pays (arXiv 2506.02355)."""

    type: Literal["unlikeliness"] = "unlikeliness"
    penalty: float = Field(
        default=0.25, ge=0, le=1, description="largest share of the reward that a likely answer loses"
    )
    scale: Literal["none", "group", "batch"] = Field(default="group", description="as in ObjectiveSpec")


class RareSpec(ObjectiveSpec):
    """Heuristic: advantages over a power of the size of the completion's class (arXiv 2601.08763)."""

    type: Literal["rare"] = "rare"
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="advantages over (completions of the class) to this power; 0 is GRPO",
    )
    scale: Literal["none", "group", "batch"] = Field(
        default="group", description="group: by the standard deviation of the group's rewards, as in GRPO"
    )

    @property
    def needs_classes(self) -> bool:
        """True: the objective counts classes."""
        return True


class GapoSpec(ObjectiveSpec):
    """Heuristic: quality minus the frequency of the completion's class among valid ones (arXiv 2511.12596)."""

    type: Literal["gapo"] = "gapo"
    num_answers: int | None = Field(
        default=None,
        ge=1,
        description="valid answers that a prompt has: a frequency below 1 over it is rewarded; null leaves it out",
    )
    scale: Literal["none", "group", "batch"] = Field(default="group", description="as in ObjectiveSpec")

    @property
    def needs_classes(self) -> bool:
        """True: the objective counts classes."""
        return True


class UcpoSpec(ObjectiveSpec):
    """Heuristic: the advantage of right completions moves to the unlikely ones (arXiv 2605.00365); rewards of 1 are
    right."""

    type: Literal["ucpo"] = "ucpo"
    tau: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the advantage of right completions that goes by 1 / likelihood per token; 0 is GRPO",
    )
    scale: Literal["none", "group", "batch"] = Field(
        default="group", description="group: by the standard deviation of the group's verdicts, as in GRPO"
    )

    @property
    def of_passes(self) -> tuple[str, str] | None:
        """The type: a completion is right or wrong."""
        return "type=ucpo", "use unlikeliness, which takes any reward"


OF_CLASSES = ("cluster", "distinct_correct", "coverage", "entropy", "simpson")
OF_DISTANCES = ("pairwise", "product", "gated", "facility", "determinant", "logdet", "vendi")


class PolychromicSpec(OfSetsSpec):
    """Set objective F = quality_weight * mean quality + diversity_weight * D over sets of `set_size`.

    D by `objective`, e.g. pairwise = mean pairwise distance; product = mean quality x mean pairwise distance;
    cluster = mean quality x distinct classes / set_size; all of them are in docs/algorithms.md.
    diversity_weight is the lambda of the papers.
    """

    type: Literal["polychromic"] = "polychromic"
    objective: Literal[
        "cluster", "distinct_correct", "coverage", "entropy", "simpson", "pairwise", "product", "gated",
        "facility", "determinant", "logdet", "vendi", "max", "distinct_n", "self_bleu",
    ] = Field(description="diversity D of a set; docs/algorithms.md has the formulas")  # fmt: skip
    quality_weight: float = Field(default=1.0, ge=0, description="weight of the mean quality")
    diversity_weight: float = Field(default=1.0, ge=0, description="lambda; 0 is leave-one-out GRPO")
    set_size: int = Field(
        default=4,
        ge=2,
        description="k: how many candidates a user sees; a group needs more scored completions than that. The "
        "credits of pairwise and gated are the same for every k",
    )
    quality_floor: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="below this quality a completion's diversity pays nothing, like a wrong one's; not for max",
    )
    num_subsets: int = Field(
        default=70, ge=1, description="sets evaluated per group by objectives without a closed form"
    )
    stale_weights: Literal["token", "sample", "set_product"] = Field(
        default="token",
        description="how groups of an older version are corrected: token: by the loss, biased for sets; sample: by "
        "each sample's own weight, biased; set_product: by the product over the set, exact, all subsets evaluated",
    )
    stale_weight_cap: float = Field(
        default=5.0, ge=1, description="largest weight, for sample and set_product"
    )

    @property
    def needs_classes(self) -> bool:
        """Whether the objective uses classes."""
        return self.objective in OF_CLASSES

    @property
    def needs_distances(self) -> bool:
        """Whether the objective uses distances."""
        return self.objective in OF_DISTANCES

    @property
    def min_samples(self) -> int:
        """A set and one sample outside it; with facility one more, the anchor."""
        return super().min_samples + (self.objective == "facility")

    @model_validator(mode="after")
    def _corrected_once(self) -> PolychromicSpec:
        if self.stale_weights != "token" and (
            self.proximal != "learner" or self.importance_correction != "none"
        ):
            raise ValueError(
                f"stale_weights={self.stale_weights} corrects whole completions already; set proximal=learner and "
                "importance_correction=none, else they are corrected twice"
            )
        if self.stale_weights != "token" and self.objective == "facility":
            raise ValueError("stale_weights: a set of facility has no value of its own; use token")
        return self


AlgorithmSpec = Annotated[
    GrpoSpec | RlooSpec | MaxRlSpec | ReinforceSpec | BestMinusSecondSpec | PassAtKSpec | PkpoSpec | PolyEpoSpec
    | PolychromicSpec | PolychromicPpoSpec | SetPoSpec | ShapedSpec | DarlingSpec | UnlikelinessSpec | RareSpec
    | GapoSpec | UcpoSpec,
    Field(discriminator="type"),
    BeforeValidator(expanded),
]  # fmt: skip
