"""The mathematics of training: pure functions of arrays; no model, no I/O, no clock, no global random state.

    numpy   advantages.py      GRPO, Dr.GRPO, RLOO, MaxRL          order_credits.py   max@k, Pass@k Training, PKPO
            set_credits.py     pairwise, product, cluster          class_credits.py   distinct, coverage, entropy
            kernel_credits.py  determinant, facility location      subset_credits.py  any function of a set
            polychromic.py     the set objective of a run          stale_credits.py   groups of an older policy
            set_values.py      what each D says about one set      heuristics.py      DARLING, GAPO, UCPO
            shaping.py         length, MARA, floors, schedules
    torch   losses.py          clipped, GSPO, CISPO, SAPO          kl.py              k1, k2, k3
            importance.py      learner / engine mismatch           exploration.py     Clip-Cov, KL-Cov
            supervised.py      cross-entropy, GEM                  regularizers.py    BA-LoRA's

docs/algorithms.md says what each is the gradient of, its bias, cost and source. Suffixes: _G samples of one
prompt, _GG pairs of them, _B sequences, _T tokens, _V vocabulary.
"""

from __future__ import annotations

from polyray.algorithms.advantages import (
    deviation,
    deviation_of_sums,
    focal_weight,
    group_advantages,
    leave_one_out_advantages,
    maximum_likelihood_advantages,
    reinforce_advantages,
)
from polyray.algorithms.class_credits import (
    coverage_set_credits,
    distinct_correct_set_credits,
    entropy_set_credits,
    simpson_set_credits,
)
from polyray.algorithms.exploration import (
    clip_cov_tokens,
    kl_cov_penalty,
    kl_cov_tokens,
    token_covariances,
)
from polyray.algorithms.heuristics import (
    darling_advantages,
    gapo_advantages,
    rare_advantages,
    shaped_advantages,
    ucpo_advantages,
    unlikeliness_advantages,
)
from polyray.algorithms.importance import (
    effective_sample_size,
    masked_token_weights,
    mismatch_sums,
    sequence_mask,
    truncated_token_weights,
)
from polyray.algorithms.kernel_credits import (
    crowding_marginals,
    determinant_set_credits,
    facility_location_set_credits,
    gated_distances,
    member_facility_set_credits,
)
from polyray.algorithms.kl import k1, k2, k3
from polyray.algorithms.losses import (
    cispo_loss,
    clipped_surrogate,
    loss_denominator,
    loss_numerator,
    sequence_log_ratio,
    soft_gated_loss,
)
from polyray.algorithms.order_credits import (
    best_minus_second_advantages,
    max_set_credits,
    pass_at_k_training_advantages,
    pkpo_advantages,
)
from polyray.algorithms.polychromic import (
    GroupView,
    PolychromicAdvantages,
    poly_epo_advantages,
    polychromic_advantages,
)
from polyray.algorithms.regularizers import (
    consistency_loss,
    spectral_loss,
    top_entropy_loss,
)
from polyray.algorithms.set_credits import (
    cluster_set_credits,
    mean_distance_credits,
    pairwise_set_credits,
    product_set_credits,
)
from polyray.algorithms.shaping import (
    floored_classes,
    floored_distances,
    floored_kernel,
    has_signal,
    mode_anchored_rewards,
    overlong_penalty,
    present_samples,
    scheduled,
)
from polyray.algorithms.stale_credits import stale_polychromic_advantages, stale_set_credits
from polyray.algorithms.subset_credits import (
    balanced_set_credits,
    balanced_subsets,
    distinct_n_value,
    enumerated_set_credits,
    logdet_value,
    self_bleu_value,
    shared_set_advantages,
    vendi_value,
)
from polyray.algorithms.supervised import gem_loss, masked_cross_entropy

__all__ = [
    "GroupView",
    "PolychromicAdvantages",
    "balanced_set_credits",
    "balanced_subsets",
    "best_minus_second_advantages",
    "cispo_loss",
    "clip_cov_tokens",
    "clipped_surrogate",
    "cluster_set_credits",
    "consistency_loss",
    "coverage_set_credits",
    "crowding_marginals",
    "darling_advantages",
    "determinant_set_credits",
    "deviation",
    "deviation_of_sums",
    "distinct_correct_set_credits",
    "distinct_n_value",
    "effective_sample_size",
    "entropy_set_credits",
    "enumerated_set_credits",
    "facility_location_set_credits",
    "floored_classes",
    "floored_distances",
    "floored_kernel",
    "focal_weight",
    "gapo_advantages",
    "gated_distances",
    "gem_loss",
    "group_advantages",
    "has_signal",
    "k1",
    "k2",
    "k3",
    "kl_cov_penalty",
    "kl_cov_tokens",
    "leave_one_out_advantages",
    "logdet_value",
    "loss_denominator",
    "loss_numerator",
    "masked_cross_entropy",
    "masked_token_weights",
    "max_set_credits",
    "maximum_likelihood_advantages",
    "mean_distance_credits",
    "member_facility_set_credits",
    "mismatch_sums",
    "mode_anchored_rewards",
    "overlong_penalty",
    "pairwise_set_credits",
    "pass_at_k_training_advantages",
    "pkpo_advantages",
    "poly_epo_advantages",
    "polychromic_advantages",
    "present_samples",
    "product_set_credits",
    "rare_advantages",
    "reinforce_advantages",
    "scheduled",
    "self_bleu_value",
    "sequence_log_ratio",
    "sequence_mask",
    "shaped_advantages",
    "shared_set_advantages",
    "simpson_set_credits",
    "soft_gated_loss",
    "spectral_loss",
    "stale_polychromic_advantages",
    "stale_set_credits",
    "token_covariances",
    "top_entropy_loss",
    "truncated_token_weights",
    "ucpo_advantages",
    "unlikeliness_advantages",
    "vendi_value",
]
