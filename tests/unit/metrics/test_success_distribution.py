"""The beta distribution of success over prompts: against integrals, SciPy, a search of the likelihood, simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from polyray.metrics.pass_at_k import pass_at_k
from polyray.metrics.success_distribution import (
    SuccessDistribution,
    beta_binomial_logpmf,
    fit_success_distribution,
    goodness_of_fit,
    overtaking_k,
)


def draws(distribution: SuccessDistribution, prompts: int, samples: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.binomial(samples, draw.beta(distribution.a, distribution.b, size=prompts))


@pytest.mark.parametrize(("a", "b"), [(0.7, 1.9), (2.5, 0.8), (3.0, 40.0)])
@pytest.mark.parametrize("k", [1, 3, 64])
def test_pass_at_k_equals_the_integral(a: float, b: float, k: int) -> None:
    value, _ = integrate.quad(lambda p: (1 - (1 - p) ** k) * stats.beta.pdf(p, a, b), 0, 1)
    assert SuccessDistribution(a, b).pass_at_k(k) == pytest.approx(value, abs=1e-6)


def test_logpmf_equals_scipys_beta_binomial() -> None:
    given = SuccessDistribution(0.4, 0.9)
    assert beta_binomial_logpmf(given, 7) == pytest.approx(stats.betabinom.logpmf(np.arange(8), 7, 0.4, 0.9))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.2, 4.0), (6.0, 3.0)])
def test_fit_has_the_largest_likelihood(a: float, b: float) -> None:
    counts = draws(SuccessDistribution(a, b), 300, 8)
    fit = fit_success_distribution(counts, 8)
    best = stats.betabinom.logpmf(counts, 8, fit.a, fit.b).sum()
    for factor_a in np.linspace(0.8, 1.25, 11):
        for factor_b in np.linspace(0.8, 1.25, 11):
            other = stats.betabinom.logpmf(counts, 8, fit.a * factor_a, fit.b * factor_b).sum()
            assert other <= best + 1e-7


def test_fit_to_8_samples_predicts_pass_at_64() -> None:
    true = SuccessDistribution(0.6, 1.4)
    fit = fit_success_distribution(draws(true, 5000, 8), 8)
    measured = float(np.mean(pass_at_k(64, draws(true, 5000, 64, seed=1), 64)))
    assert fit.pass_at_k(64) == pytest.approx(measured, abs=0.02)
    assert fit.pass_at_k(64) == pytest.approx(true.pass_at_k(64), abs=0.015)


def test_fit_test_rejects_non_beta_data_and_is_uniform_otherwise() -> None:
    true = SuccessDistribution(0.8, 1.6)
    p_values = []
    for seed in range(30):
        counts = draws(true, 200, 6, seed)
        p_values.append(goodness_of_fit(counts, 6, fit_success_distribution(counts, 6), resamples=19).p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    draw = np.random.default_rng(0)
    chances = np.where(
        draw.random(400) < 0.5, 0.5, 0.0
    )  # half of the prompts are hopeless, the rest are even
    counts = draw.binomial(16, chances)
    assert goodness_of_fit(counts, 16, fit_success_distribution(counts, 16), resamples=99).p == 0.01


def test_overtaking_k_is_the_crossing_of_the_curves() -> None:
    ahead, behind = SuccessDistribution(0.3, 0.3), SuccessDistribution(2.0, 3.0)
    k = overtaking_k(behind, ahead)
    assert k is not None
    assert behind.pass_at_k(k) == pytest.approx(ahead.pass_at_k(k), abs=1e-9)
    assert behind.pass_at_k(k * 0.9) < ahead.pass_at_k(k * 0.9)
    assert behind.pass_at_k(k * 1.1) > ahead.pass_at_k(k * 1.1)
    assert overtaking_k(ahead, behind) is None, "it is not behind"
    assert overtaking_k(SuccessDistribution(1.0, 4.0), SuccessDistribution(4.0, 1.0)) is None, "never"
    assert overtaking_k(ahead, ahead) is None
