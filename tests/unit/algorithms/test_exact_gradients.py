"""Every unbiased estimator against the exact gradient of what it claims to optimise, by enumeration to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from math import comb, log

import numpy as np
import pytest

from polyray.algorithms import (
    balanced_set_credits,
    best_minus_second_advantages,
    coverage_set_credits,
    determinant_set_credits,
    deviation,
    distinct_correct_set_credits,
    distinct_n_value,
    entropy_set_credits,
    enumerated_set_credits,
    facility_location_set_credits,
    gated_distances,
    group_advantages,
    leave_one_out_advantages,
    logdet_value,
    max_set_credits,
    maximum_likelihood_advantages,
    mean_distance_credits,
    pass_at_k_training_advantages,
    pkpo_advantages,
    poly_epo_advantages,
    polychromic_advantages,
    self_bleu_value,
    shaped_advantages,
    shared_set_advantages,
    simpson_set_credits,
    vendi_value,
)
from polyray.algorithms.polychromic import OF_CLASSES
from tests.unit.algorithms.enumeration import (
    ANCHOR_SIMILARITY_AV,
    CLASSES_V,
    DISTANCE_VV,
    KERNEL_VV,
    PROBABILITIES_V,
    QUALITY_V,
    TOKENS_V,
    Outcomes,
    exact_gradient,
    expected_update,
    mean_over_pairs,
)

N, K = 4, 3
CORRECT_V = np.array([1, 1, 0, 1])


def pick(values_V: np.ndarray, group: Outcomes) -> np.ndarray:
    return values_V[list(group)]


def pairs(values_VV: np.ndarray, group: Outcomes) -> np.ndarray:
    index = list(group)
    chosen = values_VV[np.ix_(index, index)].copy()
    if values_VV is not KERNEL_VV:
        np.fill_diagonal(chosen, 0.0)
    return chosen


def counted(group: Outcomes) -> list[int]:
    return [int(CLASSES_V[v]) for v in group if CLASSES_V[v] != -1]


def entropy(group: Outcomes) -> float:
    present = counted(group)
    shares = [present.count(c) / len(present) for c in set(present)]
    return len(present) / len(group) * -sum(p * log(p) for p in shares) / log(len(group))


def simpson(group: Outcomes) -> float:
    classes = counted(group)
    return sum(a != b for a in classes for b in classes) / len(group) ** 2


def coverage(group: Outcomes) -> float:
    best = {c: max(QUALITY_V[v] for v in group if CLASSES_V[v] == c) for c in set(counted(group))}
    return sum(best.values()) / len(group)


def facility(group: Outcomes) -> float:
    return float(np.mean([max(row[v] for v in group) for row in ANCHOR_SIMILARITY_AV]))


def minor(group: Outcomes) -> np.ndarray:
    return KERNEL_VV[np.ix_(list(group), list(group))]


Values = Callable[[Outcomes], float]
Weights = Callable[[Outcomes], np.ndarray]
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
        lambda s: len(set(counted(s))) / K,
        lambda g: distinct_correct_set_credits(pick(CLASSES_V, g), K),
    ),
    "coverage": (coverage, lambda g: coverage_set_credits(pick(QUALITY_V, g), pick(CLASSES_V, g), K)),
    "entropy": (entropy, lambda g: entropy_set_credits(pick(CLASSES_V, g), K)),
    "simpson": (simpson, lambda g: simpson_set_credits(pick(CLASSES_V, g), K)),
    "max": (lambda s: max(QUALITY_V[v] for v in s), lambda g: max_set_credits(pick(QUALITY_V, g), K)),
    "facility": (facility, lambda g: facility_location_set_credits(ANCHOR_SIMILARITY_AV[:, list(g)], K)),
    "determinant": (
        lambda s: float(np.linalg.det(minor(s))),
        lambda g: determinant_set_credits(pairs(KERNEL_VV, g), K),
    ),
    "logdet": (
        lambda s: logdet_value(minor(s))(tuple(range(K))),
        lambda g: enumerated_set_credits(logdet_value(pairs(KERNEL_VV, g)), N, K),
    ),
    "vendi": (
        lambda s: vendi_value(minor(s))(tuple(range(K))),
        lambda g: enumerated_set_credits(vendi_value(pairs(KERNEL_VV, g)), N, K),
    ),
    "distinct_n": (
        lambda s: distinct_n_value([TOKENS_V[v] for v in s])(tuple(range(K))),
        lambda g: enumerated_set_credits(distinct_n_value([TOKENS_V[v] for v in g]), N, K),
    ),
    "self_bleu": (
        lambda s: self_bleu_value([TOKENS_V[v] for v in s])(tuple(range(K))),
        lambda g: enumerated_set_credits(self_bleu_value([TOKENS_V[v] for v in g]), N, K),
    ),
    "pkpo_s": (
        lambda s: max(QUALITY_V[v] for v in s),
        lambda g: pkpo_advantages(pick(QUALITY_V, g), K, "s"),
    ),
    "pkpo_sloo": (
        lambda s: max(QUALITY_V[v] for v in s),
        lambda g: pkpo_advantages(pick(QUALITY_V, g), K, "sloo"),
    ),
    "pkpo_sloo_minus_one": (
        lambda s: max(QUALITY_V[v] for v in s),
        lambda g: pkpo_advantages(pick(QUALITY_V, g), K),
    ),
    "pass_at_k_training_unscaled": (
        lambda s: float(max(CORRECT_V[v] for v in s)),
        lambda g: K / (N - K) * pass_at_k_training_advantages(pick(CORRECT_V, g), K, scale="none"),
    ),
    "poly_epo": (
        lambda s: float(np.mean([QUALITY_V[v] for v in s])) * len(set(counted(s))) / K,
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
    exact = exact_gradient(lambda s: max(QUALITY_V[v] for v in s), N)
    update = expected_update(lambda g: best_minus_second_advantages(pick(QUALITY_V, g)), N)
    np.testing.assert_allclose(update, exact, rtol=0, atol=1e-12)


def test_leave_one_out_is_exact_and_the_group_mean_shrinks_it() -> None:
    exact = exact_gradient(lambda s: QUALITY_V[s[0]], 1)
    loo = expected_update(lambda g: leave_one_out_advantages(pick(QUALITY_V, g)) / N, N)
    grouped = expected_update(lambda g: group_advantages(pick(QUALITY_V, g)) / N, N)
    np.testing.assert_allclose(loo, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grouped, (N - 1) / N * exact, rtol=0, atol=1e-12)


def test_the_standard_deviation_keeps_the_direction_of_one_prompt_but_not_its_length() -> None:
    exact = exact_gradient(lambda s: float(CORRECT_V[s[0]]), 1)

    def in_deviations(outcomes: tuple[int, ...]) -> np.ndarray:
        centred = group_advantages(pick(CORRECT_V, outcomes))
        return centred / deviation(centred) / N

    scaled = expected_update(in_deviations, N)
    cosine = scaled @ exact / np.linalg.norm(scaled) / np.linalg.norm(exact)
    assert cosine == pytest.approx(1.0, abs=1e-12)
    assert np.linalg.norm(scaled) / np.linalg.norm(exact) == pytest.approx(1.4156, abs=1e-4)


def test_maximum_likelihood_is_the_cut_series_of_log_p() -> None:
    p = float(PROBABILITIES_V @ CORRECT_V)
    gradient_of_p = exact_gradient(lambda s: float(CORRECT_V[s[0]]), 1)
    expected = sum((1 - p) ** j for j in range(N - 1)) * gradient_of_p
    update = expected_update(lambda g: maximum_likelihood_advantages(pick(CORRECT_V, g)) / N, N)
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_subsets", [1, 4, 7])
def test_balanced_subsets_are_exact_for_each_draw(num_subsets: int) -> None:
    def weights(group: Outcomes) -> np.ndarray:
        rng = np.random.default_rng(
            num_subsets
        )  # the same design for every group: it must not depend on them
        return balanced_set_credits(vendi_value(pairs(KERNEL_VV, group)), N, K, num_subsets, rng)

    exact = exact_gradient(CREDITS["vendi"][0], K)
    np.testing.assert_allclose(expected_update(weights, N), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_sets", [2, 3, 6])
def test_shared_set_advantages_are_exact_up_to_their_constant(num_sets: int) -> None:
    def weights(group: Outcomes) -> np.ndarray:
        rng = np.random.default_rng(3)
        return shared_set_advantages(vendi_value(pairs(KERNEL_VV, group)), N, K, num_sets, rng) / N

    exact = exact_gradient(CREDITS["vendi"][0], K)
    np.testing.assert_allclose(expected_update(weights, N), exact, rtol=0, atol=1e-12)


def test_published_scales_of_poly_epo() -> None:
    def update(scale) -> np.ndarray:
        return expected_update(
            lambda g: poly_epo_advantages(pick(QUALITY_V, g), pick(CLASSES_V, g), K, scale), N
        )

    exact = exact_gradient(CREDITS["poly_epo"][0], K)
    np.testing.assert_allclose(update("mean"), (N - K) / K * exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(update("sum"), comb(N - 1, K) * exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(update("unbiased"), N * exact, rtol=0, atol=1e-12)


def test_shaping_has_about_half_the_weight_it_seems_to_have() -> None:
    weight = 0.6
    quality = exact_gradient(lambda s: QUALITY_V[s[0]], 1)
    distance = exact_gradient(lambda s: mean_over_pairs(DISTANCE_VV, s), 2)
    update = expected_update(
        lambda g: shaped_advantages(pick(QUALITY_V, g), pairs(DISTANCE_VV, g), weight) / N, N
    )
    expected = (N - 1) / N * quality + weight * (N - 2) / (2 * N) * distance
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-12)


OBJECTIVES = [
    "pairwise", "product", "gated", "cluster", "distinct_correct", "coverage", "max", "entropy", "simpson",
    "determinant", "logdet", "vendi", "distinct_n", "self_bleu",
]  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_objective_of_a_run_is_the_weighted_sum(objective) -> None:
    def mean_quality(s: Outcomes) -> float:
        return float(np.mean([QUALITY_V[v] for v in s]))

    values: dict[str, Values] = {name: value for name, (value, _) in CREDITS.items()}
    values["pairwise"] = values["mean_distance"]
    values["product"] = lambda s: mean_quality(s) * values["mean_distance"](s)
    values["cluster"] = values["poly_epo"]

    def weights(g: Outcomes) -> np.ndarray:
        return (
            polychromic_advantages(
                pick(QUALITY_V, g),
                objective=objective,
                quality_weight=0.5,
                diversity_weight=0.8,
                set_size=K,
                # Without classes no sample is absent; test_absent_samples.py has those with.
                classes_G=pick(CLASSES_V, g) if objective in OF_CLASSES else None,
                distance_GG=pairs(DISTANCE_VV, g),
                tokens_G=[TOKENS_V[v] for v in g],
            ).advantages_G
            / N
        )

    exact = exact_gradient(lambda s: 0.5 * mean_quality(s) + 0.8 * values[objective](s), K)
    np.testing.assert_allclose(expected_update(weights, N), exact, rtol=0, atol=1e-12)
