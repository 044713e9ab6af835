"""TOST: by scipy's one-sided tests, by its interval, and by its level."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.stats

from polyray.metrics import tost_non_inferiority

stats: Any = scipy.stats  # its results are typed as bunches of anything


def test_p_values_match_shifted_one_sided_t_tests() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.1, 40)
    found = tost_non_inferiority(differences, 0.05)
    lower = stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.05, alternative="less").pvalue
    assert found.p_non_inferior == pytest.approx(lower)
    assert found.p_equivalent == pytest.approx(max(lower, upper))
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_verdict_is_the_intervals() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(150):
        found = tost_non_inferiority(rng.normal(rng.normal(0, 0.1), 0.1, 12), 0.08)
        assert found.non_inferior == (found.low > -0.08)
        assert found.equivalent == (found.low > -0.08 and found.high < 0.08)
        seen.add((found.non_inferior, found.equivalent))
    assert seen == {(True, True), (True, False), (False, False)}


def test_no_difference_is_not_shown_by_few_prompts() -> None:
    differences = [0.3, -0.3, 0.2, -0.2]
    assert not tost_non_inferiority(differences, 0.05).non_inferior
    assert tost_non_inferiority(differences * 100, 0.05).equivalent


def test_the_level_at_the_margin() -> None:
    rng = np.random.default_rng(2)
    verdicts = [tost_non_inferiority(rng.normal(-0.1, 0.2, 20), 0.1).non_inferior for _ in range(600)]
    assert np.mean(verdicts) == pytest.approx(0.05, abs=0.03)


def test_clusters_of_equal_values_are_single_values() -> None:
    differences = np.random.default_rng(3).normal(0, 0.1, 15)
    single = tost_non_inferiority(differences, 0.1)
    clustered = tost_non_inferiority(np.repeat(differences, 4), 0.1, clusters=np.repeat(np.arange(15), 4))
    assert clustered.p_equivalent == pytest.approx(single.p_equivalent)
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))


def test_differences_without_spread_are_compared_with_the_margin() -> None:
    kept, lost, gained = (tost_non_inferiority([value] * 5, 0.1) for value in (-0.05, -0.2, 0.2))
    assert (kept.non_inferior, kept.equivalent) == (True, True)
    assert (lost.non_inferior, lost.equivalent) == (False, False)
    assert (gained.non_inferior, gained.equivalent) == (True, False)
    assert json.loads(json.dumps(kept.as_json(), allow_nan=False))["margin"] == 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tost_non_inferiority([0.1, 0.2], 0), r"margin=0.*\b0\b"),
        (lambda: tost_non_inferiority([0.1, 0.2], float("nan")), r"margin=nan.*\b0\b"),
        (lambda: tost_non_inferiority([0.1, 0.2], 0.1, alpha=0.5), r"alpha=0.5.*\b0\b.*0.5"),
        (lambda: tost_non_inferiority([0.1], 0.1), r"\b1 cluster"),
        (lambda: tost_non_inferiority([0.1, float("inf")], 0.1), r"differences\[1\]=inf"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
