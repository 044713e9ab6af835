"""pass@k as theory: how likely prompts are to be solved is a distribution, and its shape decides what k is worth.

If the chance p of a correct sample is Beta(a, b) over prompts, the correct ones of n samples are beta-binomial, and

    pass@k = 1 - E[(1 - p)^k] = 1 - B(a, b + k) / B(a, b)

for every k, also above n. A policy with the higher mean may have the lower curve later on: few prompts with p near 0
weigh more there. Whether a beta distribution describes the prompts at all is tested, because nothing says that it
must. Called by analysis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import Floats, Integers, whole_numbers

LOG_BOUNDS = (-7.0, 12.0)
"""Bounds of log a and log b: beyond the upper end no sample can tell prompts apart."""
MAX_SETS = 1 << 20
"""Largest k for the search of a crossing of two curves."""


@dataclass(frozen=True, slots=True)
class SuccessDistribution:
    """Beta(a, b) over prompts.

    Example:
        SuccessDistribution(a=.4, b=.9)
    """

    a: float
    b: float

    @property
    def mean(self) -> float:
        """pass@1."""
        return self.a / (self.a + self.b)

    @property
    def overdispersion(self) -> float:
        """Correlation of two samples of one prompt, 1 / (a + b + 1): 0 where all prompts are alike."""
        return 1 / (self.a + self.b + 1)

    def pass_at_k(self, k: float) -> float:
        """Expected pass@k for k > 0; also between whole numbers, where curves cross."""
        if k <= 0:
            raise ValueError(f"k={k} must be above 0")
        from scipy.special import betaln

        return -math.expm1(float(betaln(self.a, self.b + k) - betaln(self.a, self.b)))


@dataclass(frozen=True, slots=True)
class GoodnessOfFit:
    """Whether the prompts may well come from the fitted distribution.

    Example:
        GoodnessOfFit(statistic=14.2, p=.31, resamples=500)
    """

    statistic: float
    """Twice the log-likelihood ratio of the counts' own frequencies and the fit."""
    p: float
    """Share of data sets drawn from the fit, and fitted again, that fit at most as well; this one is among them."""
    resamples: int


def fit_success_distribution(num_correct: npt.ArrayLike, num_samples: int) -> SuccessDistribution:
    """The beta distribution that makes [P] counts of correct ones among `num_samples` each likeliest.

    Raises:
        ValueError: fewer than two samples (they say nothing about spread) or no prompts, a count outside, and prompts
            that are all solved always, or never: any distribution near that end fits.
    """
    counts = _checked(num_correct, num_samples)
    if counts.sum() in (0, num_samples * len(counts)):
        which = "never" if counts.sum() == 0 else "always"
        raise ValueError(f"all {len(counts)} prompts are {which} solved; there is no distribution to fit")
    frequencies = np.bincount(counts, minlength=num_samples + 1).astype(np.float64)
    return _fitted(frequencies, num_samples)


def beta_binomial_logpmf(distribution: SuccessDistribution, num_samples: int) -> Floats:
    """[n + 1] log-probabilities of 0 to n correct ones."""
    from scipy.special import betaln, gammaln

    n, c = num_samples, np.arange(num_samples + 1)
    choose = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    a, b = distribution.a, distribution.b
    return choose + betaln(c + a, n - c + b) - betaln(a, b)


def goodness_of_fit(
    num_correct: npt.ArrayLike,
    num_samples: int,
    distribution: SuccessDistribution,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> GoodnessOfFit:
    """A parametric bootstrap: data sets of as many prompts are drawn from `distribution`, fitted and compared alike.

    `distribution` must be the fit to these counts, else the p-value is too small.
    """
    counts = _checked(num_correct, num_samples)
    observed = np.bincount(counts, minlength=num_samples + 1).astype(np.float64)
    statistic = _deviance(observed, distribution, num_samples)
    draw = np.random.default_rng(seed)
    chances = np.exp(beta_binomial_logpmf(distribution, num_samples))
    worse = 0
    for frequencies in draw.multinomial(len(counts), chances / chances.sum(), size=resamples).astype(
        np.float64
    ):
        if frequencies[0] == len(counts) or frequencies[-1] == len(counts):
            continue  # it fits perfectly
        fit = _fitted(frequencies, num_samples)
        worse += _deviance(frequencies, fit, num_samples) >= statistic - 1e-9
    return GoodnessOfFit(statistic, (worse + 1) / (resamples + 1), resamples)


def overtaking_k(behind: SuccessDistribution, ahead: SuccessDistribution) -> float | None:
    """The k, in general no whole number, above which `behind`, which has the lower pass@1, has the higher pass@k.

    None where it never has within MAX_SETS candidates, where it is not behind at k = 1, and where the two are the
    same.
    """
    from scipy.optimize import brentq
    from scipy.special import betaln

    def lead(log_k: float) -> float:
        # Both curves go to 1: the ratio of the misses stays visible where their difference does not.
        k = math.exp(log_k)
        misses = [betaln(each.a, each.b + k) - betaln(each.a, each.b) for each in (ahead, behind)]
        return float(misses[0] - misses[1])

    if lead(0.0) >= 0:
        return None
    ends = np.linspace(0.0, math.log(MAX_SETS), 400)
    after = next((end for end in ends if lead(end) > 0), None)
    if after is None:
        return None
    before = ends[np.searchsorted(ends, after) - 1]
    return math.exp(brentq(lead, before, after, xtol=1e-12))  # type: ignore[arg-type]  # a float without full_output


def _checked(num_correct: npt.ArrayLike, num_samples: int) -> Integers:
    counts = np.atleast_1d(whole_numbers(num_correct, "num_correct"))
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples} says nothing about spread; draw at least 2 per prompt")
    if counts.size == 0:
        raise ValueError("num_correct is empty; give one count per prompt")
    if (counts < 0).any() or (counts > num_samples).any():
        raise ValueError(f"num_correct={counts} must lie between 0 and num_samples={num_samples}")
    return counts


def _fitted(frequencies: Floats, num_samples: int) -> SuccessDistribution:
    """Maximum likelihood in log a and log b, from the moments' fit."""
    from scipy.optimize import minimize
    from scipy.special import betaln, digamma

    counts = np.arange(num_samples + 1)

    total = frequencies.sum()

    def loss(logs: Floats) -> tuple[float, Floats]:
        """Loss per prompt, with its derivatives by log a and log b."""
        a, b = np.exp(logs)
        value = -np.sum(frequencies * (betaln(counts + a, num_samples - counts + b) - betaln(a, b))) / total
        common = digamma(num_samples + a + b) - digamma(a + b)
        by_a = np.sum(frequencies * (digamma(counts + a) - digamma(a))) / total - common
        by_b = np.sum(frequencies * (digamma(num_samples - counts + b) - digamma(b))) / total - common
        return float(value), np.array([-a * by_a, -b * by_b])

    mean = float(np.clip(np.sum(frequencies * counts) / total / num_samples, 1e-4, 1 - 1e-4))
    variance = float(np.sum(frequencies * (counts / num_samples - mean) ** 2) / total)
    binomial = mean * (1 - mean) / num_samples
    correlation = (variance - binomial) / (mean * (1 - mean) - binomial)
    size = 1 / float(np.clip(correlation, 1e-3, 0.99)) - 1
    start = np.clip(np.log([mean * size, (1 - mean) * size]), *LOG_BOUNDS)
    found = minimize(
        loss,
        start,
        jac=True,
        bounds=[LOG_BOUNDS, LOG_BOUNDS],
        method="L-BFGS-B",
        options={"ftol": 1e-12, "gtol": 1e-7},
    )
    a, b = np.exp(found.x)
    return SuccessDistribution(float(a), float(b))


def _deviance(frequencies: Floats, distribution: SuccessDistribution, num_samples: int) -> float:
    seen = frequencies > 0
    own = np.log(frequencies[seen] / frequencies.sum())
    return float(
        2 * np.sum(frequencies[seen] * (own - beta_binomial_logpmf(distribution, num_samples)[seen]))
    )
