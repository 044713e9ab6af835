"""Errors of the algorithms name the argument, its value and the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from polyray import algorithms as a
from polyray.algorithms.polychromic import OBJECTIVES
from polyray.algorithms.set_values import one_by_one

NAN, RNG = float("nan"), np.random.default_rng(0)
HALVES, CLASSES, APART = [0.5, 0.5, 0.5], [0, 1, 2], (1 - np.eye(3)).tolist()
TWO, THREE, MASK = torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2).bool()
SIX, ONE_B = torch.zeros(6, 5), torch.ones(6)
LOGITS, TARGETS = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)


def clipped(old: torch.Tensor = SIX, advantages: torch.Tensor = ONE_B, **changes: Any) -> object:
    return a.clipped_surrogate(SIX, old, advantages, **{"clip_low": 0.2, "clip_high": 0.2, **changes})


def polychromic(**changes: Any) -> object:
    given = {"objective": "cluster", "quality_weight": 1.0, "diversity_weight": 0.5, "set_size": 2}
    return a.polychromic_advantages([1.0, 0.0, 0.5], **{**given, **changes})


# pyright: reportArgumentType=false
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: a.group_advantages([1.0, NAN]), r"rewards_G\[1\]=nan"),
    (lambda: a.leave_one_out_advantages([1.0]), r"\b1\b.*\b2\b"),
    (lambda: a.reinforce_advantages([1.0, 2.0]), r"rewards_G.*1\.0.*2\.0"),
    (lambda: a.reinforce_advantages([1.0, 0.0], -0.1), r"positive_weight=-0\.1"),
    (lambda: a.focal_weight([1, 0.5], 1.0), r"correct_G=\[.*0\.5\]"),
    (lambda: a.focal_weight([1, 0], -1.0), r"gamma=-1\.0"),
    (lambda: a.deviation([1, 0], "both"), "std='both'"),
    (lambda: a.deviation([1.0]), r"\b1\b.*\b2\b"),
    (lambda: a.cluster_set_credits(HALVES, CLASSES, 3), r"k=3.*\b2\b.*N=3"),
    (lambda: a.cluster_set_credits(HALVES, CLASSES, 0), r"k=0.*\b1\b"),
    (lambda: a.cluster_set_credits([0.5, 1.5, 0], CLASSES, 2), "quality_G.*0.0.*1.5"),
    (lambda: a.cluster_set_credits(HALVES, [0, 1], 2), r"classes_G.*\b2\b.*\b3\b"),
    (lambda: a.cluster_set_credits(HALVES, [2**63, 1, -1], 2), "classes_G="),
    (lambda: a.product_set_credits(HALVES, [[0, 2, 1], [2, 0, 1], [1, 1, 0]], 2), r"distance_GG.*\b2\b"),
    (lambda: a.product_set_credits(HALVES, [[0, 1], [1, 0]], 2), r"distance_GG.*\(2, 2\)"),
    (lambda: a.product_set_credits(HALVES, np.triu(APART), 2), "distance_GG.*transpose.*1"),
    (lambda: a.pairwise_set_credits(HALVES, np.ones((3, 3)), 1.0), r"1\.0.*diagonal"),
    (lambda: a.pairwise_set_credits(HALVES, APART, NAN), "diversity_weight=nan"),
    (lambda: a.enumerated_set_credits(lambda _: NAN, 3, 2), r"set_function\(0, 1\).*nan"),
    (lambda: a.enumerated_set_credits(len, 40, 20), r"\b137846528820\b.*\b1000000\b"),
    (lambda: a.entropy_set_credits(CLASSES, 1), r"k=1.*\b2\b"),
    (lambda: a.determinant_set_credits(np.ones((3, 2)), 2), r"kernel_GG.*\(3, 2\)"),
    (lambda: a.determinant_set_credits([[1, 2, 0], [2, 1, 0], [0, 0, 1]], 2), "eigenvalue -1"),
    (lambda: a.determinant_set_credits([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], 2), "kernel_GG.*transpose"),
    (lambda: a.determinant_set_credits(np.eye(1100), 550), r"N=1100.*k=550.*1e\+300.*float64"),
    (lambda: a.facility_location_set_credits(HALVES, 2), r"similarity_VG.*\(3,\)"),
    (lambda: a.member_facility_set_credits(np.eye(5), 4), r"k=4.*\b3\b"),
    (lambda: a.crowding_marginals([[0, 2], [2, 0]]), r"distance_GG.*\b2\b"),
    (lambda: a.crowding_marginals([[0]]), r"distance_GG.*\(1, 1\)"),
    (lambda: a.max_set_credits([0.1, NAN, 0.2], 1), r"quality_G\[1\]=nan"),
    (lambda: a.pkpo_advantages([0.1, 0.2], 2, "sloo"), r"k=2.*\b1\b"),
    (lambda: a.pkpo_advantages([0.1, 0.2], 1, "loo"), "variant='loo'"),
    (lambda: a.pass_at_k_training_advantages([0, 0.5], 1), r"_G=\[.*0\.5\]"),
    (lambda: a.poly_epo_advantages(HALVES, CLASSES, 2, "max"), "scale='max'"),
    (lambda: polychromic(), "objective='cluster'.*classes_G.*None"),
    (lambda: polychromic(objective="product", classes_G=CLASSES), "objective='product'.*distance_GG.*None"),
    (lambda: polychromic(objective="volume"), f"objective='volume'.*{OBJECTIVES[0]}"),
    (lambda: polychromic(objective="self_bleu", tokens_G=[[1]]), r"tokens_G.*\b1\b.*\b3\b"),
    (lambda: polychromic(objective="max", quality_floor=0.5), r"quality_floor=0\.5.*objective='max'"),
    (lambda: polychromic(set_size=3, diversity_weight=0.0), r"k=3.*\b2\b"),
    (lambda: polychromic(quality_weight=-1.0), r"quality_weight=-1\.0"),
    (lambda: a.stale_set_credits(one_by_one(len), [0.0, float("inf"), 0.0], 2), r"log_weights_G\[1\]=inf"),
    (lambda: a.stale_set_credits(one_by_one(len), [0.0] * 3, 2, cap=0.0), r"cap=0\.0.*\b0\b"),
    (lambda: a.stale_set_credits(one_by_one(len), [0.0] * 3, 2, "none"), "weights='none'"),
    (lambda: a.stale_set_credits(one_by_one(len), [0.0] * 60, 20), "num_samples=.*k="),
    (lambda: a.balanced_subsets(6, 3, 0, RNG), r"num_subsets=0.*\b1\b"),
    (lambda: a.shared_set_advantages(len, 6, 3, 1, RNG), r"num_sets=1.*\b2\b"),
    (lambda: a.distinct_n_value([[1]], n=0), r"n=0.*\b1\b"),
    (lambda: a.self_bleu_value([[1]], max_n=0), r"max_n=0.*\b1\b"),
    (lambda: a.shaped_advantages([1, 0], [[0, 1], [1, 0]], -0.5), r"diversity_weight=-0\.5"),
    (lambda: a.darling_advantages([1, 0], [[0, 1], [1, 0]], "max"), "combine='max'"),
    (lambda: a.unlikeliness_advantages([1, 0], [-1.0]), r"mean_logprobs_G.*\b1\b"),
    (lambda: a.unlikeliness_advantages([1, 0], [-1.0, -2.0], 1.5), r"penalty=1\.5"),
    (lambda: a.rare_advantages([1, 0], [3, -1], 1.5), r"alpha=1\.5"),
    (lambda: a.rare_advantages([1, 0], [3], 0.5), r"classes_G.*\b1\b.*\b2\b"),
    (lambda: a.gapo_advantages([1, 0], [3, -1], 0), r"num_answers=0.*\b1\b"),
    (lambda: a.ucpo_advantages([1, 0], [-1.0, -2.0], -0.5), r"tau=-0\.5"),
    (lambda: a.ucpo_advantages([1, 0.5], [-1.0, -2.0], 0.5), r"correct_G="),
    (lambda: a.ucpo_advantages([1, 0], [-1.0, NAN], 0.5), r"mean_logprobs_G\[1\]=nan"),
    (lambda: a.maximum_likelihood_advantages([1, -1]), "rewards_G.*0"),
    (lambda: a.overlong_penalty([3], 10, 11), r"buffer=11.*1\.\.max_length=10"),
    (lambda: a.mode_anchored_rewards([1, 0], [-1.0], 0.1, 1.0), r"reference_logprobs_G.*\b1\b.*\b2\b"),
    (lambda: a.mode_anchored_rewards([1, 0], [-1.0, -2.0], -0.1, 1.0), r"kl_coefficient=-0\.1"),
    (lambda: a.floored_classes([0.5], [1], 1.5), r"floor=1\.5.*\[0, 1\]"),
    (lambda: a.scheduled(1, 0, -1, 10), r"step=-1.*\b0\b"),
    (lambda: a.scheduled(1, 0, 1, 10, "step"), "shape='step'"),
    (
        lambda: a.truncated_token_weights(TWO, THREE, 2.0),
        r"policy_logprobs \(1, 2\).*rollout_logprobs \(1, 3\)",
    ),
    (lambda: a.truncated_token_weights(TWO, TWO, 0), "cap=0"),
    (lambda: a.masked_token_weights(TWO, TWO, 1.5, 2.0), r"low=1\.5.*\[0, 1\)"),
    (lambda: a.sequence_mask(TWO, TWO, MASK, -1), "band=-1"),
    (lambda: clipped(clip_low=1.0), r"clip_low=1\.0.*\[0, 1\)"),
    (lambda: clipped(dual_clip=1.0), r"dual_clip=1\.0.*\b1\b"),
    (lambda: clipped(SIX[:, :4]), r"old_logprobs \(6, 4\)"),
    (lambda: clipped(advantages=ONE_B[:5]), r"advantages \(5, 1\)"),
    (lambda: a.soft_gated_loss(SIX, SIX, ONE_B, temperature_negative=0), "temperature_negative=0"),
    (lambda: a.loss_numerator(TWO, MASK, "mean"), "normalisation='mean'"),
    (lambda: a.loss_numerator(THREE, MASK, "token"), r"mask_BT \(1, 2\)"),
    (lambda: a.token_covariances([-1.0, -2.0], [1.0]), r"logprobs_N.*\b2\b.*advantages_N \b1\b"),
    (lambda: a.kl_cov_tokens(np.zeros(3), np.zeros(3), share=0), r"share=0.*\(0, 1\]"),
    (
        lambda: a.masked_cross_entropy(LOGITS, TARGETS[:, :1], MASK),
        r"logits_BTV \(1, 2, 4\).*targets_BT \(1, 1\)",
    ),
    (lambda: a.gem_loss(LOGITS, TARGETS, MASK, beta=0), r"beta=0.*\b0\b"),
    (lambda: a.gem_loss(LOGITS, TARGETS, MASK, link="log"), "link='log'"),
    (lambda: a.consistency_loss(LOGITS, LOGITS, MASK, temperature=0), r"temperature=0.*\b0\b"),
    (lambda: a.consistency_loss(LOGITS, LOGITS[:, :1], MASK), r"base_logits_BTV \(1, 1, 4\)"),
    (lambda: a.top_entropy_loss(LOGITS, MASK, top=1), r"top=1.*\b2\b"),
    (lambda: a.spectral_loss(LOGITS, top=0), r"top=0.*\b1\b"),
    (lambda: a.spectral_loss(LOGITS, norm="sum"), "norm='sum'.*'frobenius'.*'nuclear'"),
    (lambda: a.spectral_loss(LOGITS, norm="nuclear", generator=torch.Generator()), "norm='nuclear'"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_argument_is_named_with_its_value_and_limit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
