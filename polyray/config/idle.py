"""Refuse fields of an objective that have no effect, because such a value misleads.

A field at its default is never refused. The modifier of a weight that is explicitly 0 is not refused either, so a
sweep over a weight may start at 0. Validators of the specs refuse combinations that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from polyray.config.algorithm import (
    AlgorithmSpec,
    BestMinusSecondSpec,
    GrpoSpec,
    PassAtKSpec,
    PolychromicPpoSpec,
    PolychromicSpec,
    PolyEpoSpec,
)
from polyray.config.loss import LossSpec
from polyray.config.objective import ObjectiveSpec

OF_SUBSETS = ("determinant", "logdet", "vendi", "distinct_n", "self_bleu")
"""Objectives that `num_subsets` may concern; determinant where similarities are not positive semi-definite."""
OF_EVERY_K = ("pairwise", "gated")
"""Objectives with the same credits for every set size, except those of stale sets."""


def check_idle(algorithm: AlgorithmSpec, prefix: str = "algorithm") -> None:
    """ValueError naming the first field without effect, and the setting it needs.

    Args:
        algorithm: an objective.
        prefix: its key in its file.
    """
    for name, needs in (*_of_loss(algorithm), *_of_advantages(algorithm), *_of_sets(algorithm)):
        value = getattr(algorithm, name)
        if value != type(algorithm).model_fields[name].default:
            raise ValueError(
                f"{prefix}.{name}={value} has no effect here: it needs {needs}; set that, or remove {name}"
            )
    anneal = algorithm.anneal
    if anneal is None:
        return
    if anneal.set_size is None and anneal.diversity_weight is None:
        raise ValueError(
            f"{prefix}.anneal names no end; set anneal.set_size or anneal.diversity_weight, or remove it"
        )
    if anneal.set_size is not None and isinstance(algorithm, PolychromicSpec) and _is_of_every_k(algorithm):
        raise ValueError(
            f"{prefix}.anneal.set_size={anneal.set_size} has no effect here: the credits of this objective are the "
            "same for every set size; remove it"
        )


def _of_loss(spec: LossSpec) -> Iterator[tuple[str, str]]:
    """(field, the setting it needs) of the fields of the loss that are idle."""
    if spec.surrogate not in ("ppo", "gspo"):
        for name in ("clip_low", "clip_high", "dual_clip"):
            yield name, "surrogate=ppo or gspo"
    if spec.surrogate != "cispo":
        yield "cispo_cap", "surrogate=cispo"
    if spec.surrogate != "sapo":
        yield "sapo_temperature_positive", "surrogate=sapo"
        yield "sapo_temperature_negative", "surrogate=sapo"
    if _is_left_out(spec, "kl_coefficient"):
        yield "kl_placement", "kl_coefficient above 0"
        yield "kl_estimator", "kl_coefficient above 0"
    if spec.covariance == "none":
        yield "covariance_share", "covariance=clip_cov or kl_cov"
    if spec.covariance != "clip_cov":
        yield "covariance_band", "covariance=clip_cov"
    if spec.covariance != "kl_cov":
        yield "kl_cov_coefficient", "covariance=kl_cov"
    bounded = spec.surrogate != "ppo" and spec.proximal == "rollout"
    if spec.importance_correction == "none":
        yield "importance_cap", "importance_correction=truncate, mask or two_sided"
    elif spec.importance_correction == "truncate" and bounded:
        yield "importance_cap", "surrogate=ppo, proximal=learner, or importance_correction=mask or two_sided"
    if spec.importance_correction != "two_sided":
        yield "importance_floor", "importance_correction=two_sided"


def _of_advantages(spec: ObjectiveSpec) -> Iterator[tuple[str, str]]:
    of_its_own = isinstance(spec, PassAtKSpec | BestMinusSecondSpec)
    if spec.scale == "none" or (spec.scale == "group" and of_its_own):
        yield "std", "scale=batch" if of_its_own else "scale=group or batch"
    if _is_left_out(spec, "overlong_buffer"):
        yield "overlong_weight", "overlong_buffer above 0"
    if not spec.dynamic_sampling:
        yield "max_resampled_batches", "dynamic_sampling=true"
    if isinstance(spec, GrpoSpec) and (spec.kl_placement != "reward" or spec.kl_coefficient == 0):
        yield "mode_threshold", "kl_placement=reward, kl_estimator=k1 and kl_coefficient above 0"
    if isinstance(spec, PolyEpoSpec) and spec.scale != "none":
        yield "credit_scale", "scale=none (another scale divides it out)"
    if isinstance(spec, PolychromicPpoSpec) and spec.scale == "group":
        yield "unbiased_scale", "scale=none or batch (that of the group divides it out)"


def _of_sets(spec: ObjectiveSpec) -> Iterator[tuple[str, str]]:
    if not isinstance(spec, PolychromicSpec):
        return
    if spec.objective == "max":
        yield "quality_floor", "an objective of diversity (max has none)"
    if spec.stale_weights == "token":
        yield "stale_weight_cap", "stale_weights=sample or set_product"
        if spec.objective not in OF_SUBSETS:
            yield "num_subsets", f"an objective without a closed form: {', '.join(OF_SUBSETS)}"
    else:
        yield "num_subsets", f"stale_weights=token ({spec.stale_weights} evaluates all sets)"


def _is_of_every_k(spec: PolychromicSpec) -> bool:
    return spec.objective in OF_EVERY_K and spec.stale_weights != "set_product"


def _is_left_out(spec: LossSpec, weight: str) -> bool:
    """Whether a weight is 0 by default, not by choice."""
    return getattr(spec, weight) == 0 and weight not in spec.model_fields_set
