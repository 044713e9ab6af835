"""ROUGE and engagement correlation: by hand and against scipy."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from polyray.metrics import engagement_correlation, rouge

stats: Any = scipy.stats  # its results are typed as bunches of anything


def test_rouge_equals_overlaps_by_hand() -> None:
    # Tokens "the cat sat" and "the cat ran home": 2 of 3 and 2 of 4 words, 1 of 2 and 1 of 3 bigrams.
    found = rouge("the cat sat", "the cat ran home")
    assert found.rouge1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found.rouge2 == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found.rouge_l == pytest.approx(found.rouge1)
    assert rouge("b a", "a b").rouge_l == 0.5 and rouge("b a", "a b").rouge1 == 1.0


def test_rouge_takes_the_best_reference_of_each_measure() -> None:
    found = rouge("a b c d", ["d c b a", "a b x y"])
    assert (found.rouge1, found.rouge2) == (1.0, pytest.approx(1 / 3))
    assert rouge("", "a") == rouge("!", ["a", "b"])
    assert rouge("", "a").rouge1 == 0.0
    assert rouge("running dogs", "run dog").rouge1 == 0.0
    assert rouge("running dogs", "run dog", stem=True).rouge1 == 1.0


def test_engagement_correlation_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"thread-{i}" for i in range(12)], 6)
    popularity = np.repeat(rng.normal(size=12), 6)
    scores = rng.integers(0, 5, 72) + popularity.round()
    engagements = (3 * popularity + rng.normal(size=72)).round()
    found = engagement_correlation(scores, engagements, groups)
    assert found.spearman == pytest.approx(stats.spearmanr(scores, engagements).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(scores, engagements).statistic)
    chosen = [groups == name for name in found.groups]
    spearman = [stats.spearmanr(scores[c], engagements[c]).statistic for c in chosen]
    kendall = [stats.kendalltau(scores[c], engagements[c]).statistic for c in chosen]
    assert found.spearman_by_group == pytest.approx(spearman)
    assert found.kendall_by_group == pytest.approx(kendall)
    assert found.spearman_within == pytest.approx(np.mean(spearman))
    assert found.kendall_within == pytest.approx(np.mean(kendall))
    order = rng.permutation(72)
    shuffled = engagement_correlation(scores[order], engagements[order], groups[order])
    assert shuffled.spearman_by_group == pytest.approx(found.spearman_by_group)


def test_engagement_correlation_counts_groups_left_out() -> None:
    found = engagement_correlation([1, 2, 3, 4, 5, 1], [3, 1, 2, 2, 9, 4], [7, 7, 8, 8, 9, 7])
    assert (found.num_items, found.num_groups, found.num_groups_left_out) == (6, 1, 2)
    assert found.groups == ("7",)
    nothing = engagement_correlation([1, 1], [1, 2], ["a", "b"])
    assert math.isnan(nothing.spearman) and math.isnan(nothing.kendall_within)
    written = json.loads(json.dumps(nothing.as_json(), allow_nan=False))
    counts = {"num_items": 2, "num_groups": 0, "num_groups_left_out": 2}
    undefined = dict.fromkeys(("spearman", "kendall", "spearman_within", "kendall_within"))
    assert written == {**undefined, **counts}
