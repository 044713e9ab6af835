"""Every unbiased estimator against the exact gradient of what it claims to optimise, by enumeration to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest

from polyray.algorithms import (
    balanced_set_credits,
    best_minus_second_advantages,
    coverage_set_credits,
    crowding_marginals,
    determinant_set_credits,
    deviation,
    distinct_correct_set_credits,
    distinct_n_value,
    entropy_set_credits,
    enumerated_set_credits,
    facility_location_set_credits,
    focal_weight,
    gapo_advantages,
    gated_distances,
    group_advantages,
    leave_one_out_advantages,
    logdet_value,
    max_set_credits,
    maximum_likelihood_advantages,
    mean_distance_credits,
    member_facility_set_credits,
    pass_at_k_training_advantages,
    pkpo_advantages,
    poly_epo_advantages,
    polychromic_advantages,
    reinforce_advantages,
    self_bleu_value,
    shaped_advantages,
    shared_set_advantages,
    simpson_set_credits,
    vendi_value,
)
from polyray.algorithms.polychromic import OF_CLASSES
from polyray.algorithms.subset_credits import SetFunction
from tests.unit.algorithms.enumeration import (
    ANCHOR_SIMILARITY_AV,
    CLASSES_V,
    DISTANCE_VV,
    KERNEL_VV,
    PROBABILITIES_V,
    QUALITY_V,
    TOKENS_V,
    Outcomes,
    coverage,
    distinct_share,
    entropy,
    exact_gradient,
    expected_update,
    mean_over_pairs,
    scores,
    simpson,
)

N, K = 4, 3
CORRECT_V = np.array([1, 1, 0, 1])


def pick(values_V: np.ndarray, group: Outcomes) -> np.ndarray:
    return values_V[list(group)]


def pairs(values_VV: np.ndarray, group: Outcomes) -> np.ndarray:
    chosen = values_VV[np.ix_(group, group)].copy()
    np.fill_diagonal(chosen, 0.0)
    return chosen


def facility(group: Outcomes) -> float:
    return float(np.mean([max(row[v] for v in group) for row in ANCHOR_SIMILARITY_AV]))


def best_quality(group: Outcomes) -> float:
    return max(QUALITY_V[v] for v in group)


def minor(group: Outcomes) -> np.ndarray:
    return KERNEL_VV[np.ix_(group, group)]


Values = Callable[[Outcomes], float]
Weights = Callable[[Outcomes], np.ndarray]


def evaluated(
    value_of: Callable[..., SetFunction], inputs: Callable[[Outcomes], Any]
) -> tuple[Values, Weights]:
    """Value of a whole set, and credits by evaluating it on all sets of a group."""
    return (
        lambda s: value_of(inputs(s))(tuple(range(K))),
        lambda g: enumerated_set_credits(value_of(inputs(g)), N, K),
    )


GATED_VV = np.outer(QUALITY_V, QUALITY_V) * DISTANCE_VV

CREDITS: dict[str, tuple[Values, Weights]] = {
    "mean_distance": (
        lambda s: mean_over_pairs(DISTANCE_VV, s),
        lambda g: mean_distance_credits(pairs(DISTANCE_VV, g)),
    ),
    "gated": (
        lambda s: mean_over_pairs(GATED_VV, s),
        lambda g: mean_distance_credits(gated_distances(pick(QUALITY_V, g), pairs(DISTANCE_VV, g))),
    ),
    "distinct_correct": (
        lambda s: distinct_share(CLASSES_V, s),
        lambda g: distinct_correct_set_credits(pick(CLASSES_V, g), K),
    ),
    "coverage": (
        lambda s: coverage(QUALITY_V, CLASSES_V, s),
        lambda g: coverage_set_credits(pick(QUALITY_V, g), pick(CLASSES_V, g), K),
    ),
    "entropy": (lambda s: entropy(CLASSES_V, s), lambda g: entropy_set_credits(pick(CLASSES_V, g), K)),
    "simpson": (lambda s: simpson(CLASSES_V, s), lambda g: simpson_set_credits(pick(CLASSES_V, g), K)),
    "max": (best_quality, lambda g: max_set_credits(pick(QUALITY_V, g), K)),
    "facility": (facility, lambda g: facility_location_set_credits(ANCHOR_SIMILARITY_AV[:, list(g)], K)),
    "determinant": (
        lambda s: float(np.linalg.det(minor(s))),
        lambda g: determinant_set_credits(minor(g), K),
    ),
    "logdet": evaluated(logdet_value, minor),
    "vendi": evaluated(vendi_value, minor),
    "distinct_n": evaluated(distinct_n_value, lambda g: [TOKENS_V[v] for v in g]),
    "self_bleu": evaluated(self_bleu_value, lambda g: [TOKENS_V[v] for v in g]),
    "pkpo_s": (best_quality, lambda g: pkpo_advantages(pick(QUALITY_V, g), K, "s")),
    "pkpo_sloo": (best_quality, lambda g: pkpo_advantages(pick(QUALITY_V, g), K, "sloo")),
    "pkpo_sloo_minus_one": (best_quality, lambda g: pkpo_advantages(pick(QUALITY_V, g), K)),
    "pass_at_k_training_unscaled": (
        lambda s: float(max(CORRECT_V[v] for v in s)),
        lambda g: K / (N - K) * pass_at_k_training_advantages(pick(CORRECT_V, g), K, scale="none"),
    ),
    "poly_epo": (
        lambda s: float(np.mean([QUALITY_V[v] for v in s])) * distinct_share(CLASSES_V, s),
        lambda g: poly_epo_advantages(pick(QUALITY_V, g), pick(CLASSES_V, g), K) / N,
    ),
}


@pytest.mark.parametrize("name", CREDITS)
def test_expected_update_is_the_exact_gradient(name: str) -> None:
    value, weights = CREDITS[name]
    exact = exact_gradient(value, K)
    assert np.abs(exact).max() > 1e-3
    np.testing.assert_allclose(expected_update(weights, N), exact, rtol=0, atol=1e-12)


def test_best_minus_second_is_the_gradient_of_the_best_of_all() -> None:
    update = expected_update(lambda g: best_minus_second_advantages(pick(QUALITY_V, g)), N)
    np.testing.assert_allclose(update, exact_gradient(best_quality, N), rtol=0, atol=1e-12)


def crowding(s: Outcomes) -> float:
    """SetPO's diversity of a set: diminishing returns -log(1 + x) of the mean similarity to all of it."""
    similarity = 1 - pairs(DISTANCE_VV, s)
    return sum(-np.log(1 + row.sum() / len(s)) for row in similarity) / len(s)


def test_crowding_marginals_are_the_gradient_of_the_diversity_of_the_group() -> None:
    group = (0, 2, 2, 1)
    others = [tuple(np.delete(group, i)) for i in range(N)]
    expected = [crowding(group) - crowding(rest) for rest in others]
    np.testing.assert_allclose(crowding_marginals(pairs(DISTANCE_VV, group)), expected, rtol=0, atol=1e-15)
    update = expected_update(lambda g: crowding_marginals(pairs(DISTANCE_VV, g)), N)
    np.testing.assert_allclose(update, exact_gradient(crowding, N), rtol=0, atol=1e-12)


def test_leave_one_out_is_exact_and_group_mean_shrinks_the_gradient() -> None:
    exact = exact_gradient(lambda s: QUALITY_V[s[0]], 1)
    loo = expected_update(lambda g: leave_one_out_advantages(pick(QUALITY_V, g)) / N, N)
    grouped = expected_update(lambda g: group_advantages(pick(QUALITY_V, g)) / N, N)
    np.testing.assert_allclose(loo, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grouped, (N - 1) / N * exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_reinforce_is_exact_for_every_weight_of_right_samples(weight: float) -> None:
    exact = exact_gradient(lambda s: QUALITY_V[s[0]], 1)
    update = expected_update(lambda g: reinforce_advantages(pick(QUALITY_V, g), weight) / N, N)
    np.testing.assert_allclose(update, (1 + weight) * exact, rtol=0, atol=1e-12)


def test_focal_weight_of_power_one_re_weights_prompts_by_a_line() -> None:
    p = float(PROBABILITIES_V @ CORRECT_V)
    gradient_of_p = exact_gradient(lambda s: float(CORRECT_V[s[0]]), 1)

    def weights(g: Outcomes) -> np.ndarray:
        return focal_weight(pick(CORRECT_V, g), 1.0) * group_advantages(pick(CORRECT_V, g)) / N

    expected = (N - 1) * (N - 1 - (N - 2) * p) / N**2 * gradient_of_p
    np.testing.assert_allclose(expected_update(weights, N), expected, rtol=0, atol=1e-12)


def test_division_by_the_deviation_keeps_the_direction_but_not_the_length() -> None:
    exact = exact_gradient(lambda s: float(CORRECT_V[s[0]]), 1)

    def in_deviations(outcomes: Outcomes) -> np.ndarray:
        centred = group_advantages(pick(CORRECT_V, outcomes))
        return centred / deviation(centred) / N

    scaled = expected_update(in_deviations, N)
    length, scaled_length = np.linalg.norm(exact), np.linalg.norm(scaled)
    assert scaled @ exact == pytest.approx(length * scaled_length, rel=1e-12)
    assert scaled_length / length == pytest.approx(1.4156, abs=1e-4)


def test_maximum_likelihood_is_the_truncated_series_of_log_p() -> None:
    p = float(PROBABILITIES_V @ CORRECT_V)
    gradient_of_p = exact_gradient(lambda s: float(CORRECT_V[s[0]]), 1)
    expected = sum((1 - p) ** j for j in range(N - 1)) * gradient_of_p
    update = expected_update(lambda g: maximum_likelihood_advantages(pick(CORRECT_V, g)) / N, N)
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_sets", [1, 2, 3, 4, 6, 7])
def test_sampled_sets_are_exact_for_each_draw(num_sets: int) -> None:
    """The same generator, and so the same design, for every group: a design does not depend on values."""
    exact = exact_gradient(CREDITS["vendi"][0], K)

    def balanced(group: Outcomes) -> np.ndarray:
        rng = np.random.default_rng(num_sets)
        return balanced_set_credits(vendi_value(minor(group)), N, K, num_sets, rng)

    def shared(group: Outcomes) -> np.ndarray:
        rng = np.random.default_rng(3)
        return shared_set_advantages(vendi_value(minor(group)), N, K, num_sets, rng) / N

    for weights in [balanced] if num_sets == 1 else [balanced, shared]:
        np.testing.assert_allclose(expected_update(weights, N), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "factor"), [("mean", (N - K) / K), ("sum", comb(N - 1, K)), ("unbiased", N)]
)
def test_poly_epo_scales_are_multiples_of_the_gradient(scale, factor: float) -> None:
    def weights(g: Outcomes) -> np.ndarray:
        return poly_epo_advantages(pick(QUALITY_V, g), pick(CLASSES_V, g), K, scale)

    exact = exact_gradient(CREDITS["poly_epo"][0], K)
    np.testing.assert_allclose(expected_update(weights, N), factor * exact, rtol=0, atol=1e-12)


def test_shaping_has_about_half_of_its_nominal_weight() -> None:
    weight = 0.6
    quality = exact_gradient(lambda s: QUALITY_V[s[0]], 1)
    distance = exact_gradient(lambda s: mean_over_pairs(DISTANCE_VV, s), 2)
    update = expected_update(
        lambda g: shaped_advantages(pick(QUALITY_V, g), pairs(DISTANCE_VV, g), weight) / N, N
    )
    expected = (N - 1) / N * quality + weight * (N - 2) / (2 * N) * distance
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-12)


def test_gapo_has_under_half_of_the_diversity_that_it_pays() -> None:
    classes_V = np.array([5, 8, 2, 5])
    differ_VV = (classes_V[:, None] != classes_V).astype(float)
    diversity = exact_gradient(lambda s: mean_over_pairs(differ_VV, s), 2)
    update = expected_update(lambda g: gapo_advantages(np.ones(N), pick(classes_V, g), 7) / N, N)
    np.testing.assert_allclose(update, (N - 1) * (N - 2) / (2 * N**2) * diversity, rtol=0, atol=1e-12)


OBJECTIVES = [
    "pairwise", "product", "gated", "cluster", "distinct_correct", "coverage", "max", "entropy", "simpson",
    "determinant", "logdet", "vendi", "distinct_n", "self_bleu",
]  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "num_samples", "k"),
    [
        *((objective, N, K) for objective in OBJECTIVES),
        *(
            (objective, *sizes)
            for objective in ("pairwise", "product", "cluster")
            for sizes in [(3, 2), (5, 3), (5, 4)]
        ),
    ],
)
def test_polychromic_update_is_the_gradient_of_the_weighted_sum(objective, num_samples: int, k: int) -> None:
    def mean_quality(s: Outcomes) -> float:
        return float(np.mean([QUALITY_V[v] for v in s]))

    values: dict[str, Values] = {name: value for name, (value, _) in CREDITS.items()}
    values["pairwise"] = values["mean_distance"]
    values["product"] = lambda s: mean_quality(s) * values["mean_distance"](s)
    values["cluster"] = lambda s: mean_quality(s) * distinct_share(CLASSES_V, s)

    def weights(g: Outcomes) -> np.ndarray:
        found = polychromic_advantages(
            pick(QUALITY_V, g),
            objective=objective,
            quality_weight=0.5,
            diversity_weight=0.8,
            set_size=k,
            # Without classes no sample is absent; test_absent_samples.py has absent ones.
            classes_G=pick(CLASSES_V, g) if objective in OF_CLASSES else None,
            distance_GG=pairs(DISTANCE_VV, g),
            tokens_G=[TOKENS_V[v] for v in g],
        )
        np.testing.assert_array_equal(found.advantages_G, found.quality_part_G + found.diversity_part_G)
        np.testing.assert_allclose(
            found.quality_part_G, 0.5 * leave_one_out_advantages(pick(QUALITY_V, g)), atol=1e-14
        )
        return found.advantages_G / num_samples

    exact = exact_gradient(lambda s: 0.5 * mean_quality(s) + 0.8 * values[objective](s), k)
    np.testing.assert_allclose(expected_update(weights, num_samples), exact, rtol=0, atol=1e-12)


def test_member_facility_is_the_gradient_for_anchors_outside_the_set() -> None:
    """The gradient of E[best similarity of an anchor to k samples], the anchor held fixed; N = 5, k = 2."""
    of_samples, of_all = np.zeros(4), np.zeros(4)
    for anchor, *chosen in product(range(4), repeat=3):
        weight = PROBABILITIES_V[[anchor, *chosen]].prod() * KERNEL_VV[anchor, chosen].max()
        score = scores((anchor, *chosen))
        of_samples += weight * score[1:].sum(axis=0)
        of_all += weight * score.sum(axis=0)

    def each_other_member(group: Outcomes) -> np.ndarray:
        credits_G = np.zeros(5)
        for anchor in range(5):
            others = [i for i in range(5) if i != anchor]
            similarity = KERNEL_VV[group[anchor], [group[i] for i in others]][None].clip(0, 1)
            credits_G[others] += facility_location_set_credits(similarity, 2) / 5
        return credits_G

    def closed(group: Outcomes) -> np.ndarray:
        return member_facility_set_credits(minor(group).clip(0, 1), 2)

    np.testing.assert_allclose(expected_update(each_other_member, 5), of_samples, rtol=0, atol=1e-12)
    np.testing.assert_allclose(expected_update(closed, 5), of_samples, rtol=0, atol=1e-12)
    for group in ((0, 1, 2, 3, 1), (2, 2, 0, 0, 3), (1, 1, 1, 1, 1)):
        np.testing.assert_allclose(closed(group), each_other_member(group), rtol=0, atol=1e-15)
    members = expected_update(lambda g: facility_location_set_credits(minor(g).clip(0, 1), 2), 5)
    for gradient, expected in ((of_samples, 0.49), (of_all, -0.06)):
        cosine = members @ gradient / np.linalg.norm(members) / np.linalg.norm(gradient)
        assert cosine == pytest.approx(expected, abs=0.005), "an anchor inside the set is biased"
