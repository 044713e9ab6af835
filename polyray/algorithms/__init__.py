"""The mathematics of training: pure functions of arrays; no model, no I/O, no clock, no global random state.

    advantages.py   GRPO, Dr.GRPO, leave-one-out     set_credits.py   credits in sets of completions   (numpy)
    losses.py       clipped surrogate, aggregation   kl.py            k1, k2, k3                       (torch)
    importance.py   learner / engine mismatch        supervised.py    SFT loss     masking.py  masks   (torch)

Suffixes: _G samples of one prompt, _GG pairs of them, _B sequences, _T tokens, _V vocabulary.
"""

from __future__ import annotations

from polyray.algorithms.advantages import group_advantages, leave_one_out_advantages
from polyray.algorithms.importance import mismatch_metrics, sequence_mask, truncated_token_weights
from polyray.algorithms.kl import k1, k2, k3
from polyray.algorithms.losses import aggregate, clipped_surrogate
from polyray.algorithms.masking import completion_mask
from polyray.algorithms.set_credits import (
    PolychromicAdvantages,
    cluster_set_credits,
    enumerated_set_credits,
    mean_quality_credits,
    pairwise_set_credits,
    polychromic_advantages,
    product_set_credits,
)
from polyray.algorithms.supervised import masked_cross_entropy

__all__ = [
    "PolychromicAdvantages",
    "aggregate",
    "clipped_surrogate",
    "cluster_set_credits",
    "completion_mask",
    "enumerated_set_credits",
    "group_advantages",
    "k1",
    "k2",
    "k3",
    "leave_one_out_advantages",
    "masked_cross_entropy",
    "mean_quality_credits",
    "mismatch_metrics",
    "pairwise_set_credits",
    "polychromic_advantages",
    "product_set_credits",
    "sequence_mask",
    "truncated_token_weights",
]
