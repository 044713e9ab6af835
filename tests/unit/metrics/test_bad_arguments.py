"""Errors of the metrics name the argument, its value and the limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from polyray import metrics as m
from polyray.metrics.calibration import pair_calibration
from polyray.metrics.divergence import monotone_trend, parted
from polyray.metrics.pairwise import within_group_pairs
from polyray.metrics.success_distribution import SuccessDistribution, fit_success_distribution

NAN, PAIR = float("nan"), {"a": [1, 2], "b": [1, 2]}
# pyright: basic, reportArgumentType=false
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: m.krippendorff_alpha([1, 2]), r"ratings.*\(2,\)"),
    (lambda: m.krippendorff_alpha([[1, NAN], [NAN, 2]]), "two ratings"),
    (lambda: m.krippendorff_alpha([[1], [1]], "ratio"), "level='ratio'"),
    (lambda: m.cohens_kappa([1, 2], [1]), r"\bb .*\b1\b.*\b2\b"),
    (lambda: m.cohens_kappa(["a", None], ["a", "b"]), "a holds None"),
    (lambda: m.bootstrap_mean([0.1, NAN]), r"values\[1\]=nan"),
    (lambda: m.bootstrap_mean([]), "values has 0"),
    (lambda: m.bootstrap_mean([0.1, 0.2], ["a"]), r"clusters.*\b1\b.*\b2\b"),
    (lambda: m.bootstrap_mean([0.1, 0.2], ["a", None]), "clusters holds None"),
    (lambda: m.bootstrap_mean([0.1, 0.2], resamples=0), r"resamples=0.*\b1\b"),
    (lambda: m.bootstrap_mean([0.1, 0.2], confidence=95), r"confidence=95.*\b0\b.*\b1\b"),
    (lambda: m.bootstrap_mean([0.1, 0.2], method="normal"), "method='normal'.*percentile, bca"),
    (lambda: m.paired_bootstrap([0.1, 0.2], [0.1]), r"b has 1 .*\b2\b"),
    (lambda: m.hierarchical_intervals([[[0.1, NAN]]]), r"values_SP\[0, 1\]=nan"),
    (lambda: m.hierarchical_intervals([np.zeros((0, 3))]), r"values_SP.*\(0, 3\)"),
    (lambda: m.hierarchical_intervals([[[0.1, 0.2]], [[0.1]]]), r"values_SP has 1 .*\b2\b"),
    (lambda: m.paired_hierarchical_bootstrap([0.1, 0.2], [[0.1]]), r"b_SP has 1 .*\b2\b"),
    (lambda: pair_calibration([1.0], num_bins=0), r"num_bins=0.*\b1\b"),
    (lambda: m.compare_models({"a": [1, 2]}), r"\['a'\]"),
    (lambda: m.compare_models(PAIR, baseline="c"), "baseline='c'.* a, b"),
    (lambda: m.compare_models({"a": [1, 2], "b": [1]}), r"value of b has 1 .*\b2\b"),
    (lambda: m.compare_models(PAIR, clusters=["x", "x"]), r"\b1 cluster.*\b2\b"),
    (lambda: m.compare_metrics({}), "values is empty"),
    (lambda: m.compare_metrics({"m": PAIR, "n": {"a": [1, 2]}}), r"n .*\['a'\].*\['a', 'b'\]"),
    (lambda: m.compare_metrics({"m": PAIR}, margins={"n": 0.1}), r"margins.*'n'.* m\b"),
    (lambda: monotone_trend([1.0, 2.0], "rise"), r"\b3\b"),
    (
        lambda: parted([1, 2, 3], [1, 2], min_rise=0, max_fall=0, significance=0.01),
        r"\b3\b.*second_T .*\b2\b",
    ),
    (lambda: m.mean_pairwise_cosine_distance([[1.0, 2.0]]), r"\(1, 2\).*\b2\b"),
    (lambda: m.mean_pairwise_cosine_distance([[1.0], [0.0]]), r"embeddings\[1\].*\b0\b"),
    (lambda: m.vendi_score([[1, 0.5], [0.4, 1]]), r"transpose.*\b0\.09"),
    (lambda: m.vendi_score(np.zeros((2, 2))), r"diagonal.*0\.0.*0\.0"),
    (lambda: m.vendi_score([[1, 2], [2, 1]]), "eigenvalue -1"),
    (lambda: m.vendi_score(np.eye(2), q=-1), r"q=-1.*\b0\b"),
    (lambda: m.cohens_d([1], [1, 2]), r"\ba .*\b1\b.*\b2\b"),
    (lambda: m.collapse_point({0: 0.1, 1: 0.2}), r"k=0.*\b1\b"),
    (lambda: m.maximal_marginal_relevance([0.1, 0.2], 1 - np.eye(2), 3, 0.5), r"k=3.*\b2\b"),
    (lambda: m.maximal_marginal_relevance([0.1, 0.2], 1 - np.eye(2), 1, 1.5), r"weight=1\.5.*\[0, 1\]"),
    (lambda: m.maximal_marginal_relevance([0.1, 0.2], np.eye(3), 1, 0.5), r"distances_GG.*\(3, 3\).*\b2\b"),
    (lambda: m.holm([0.5, 1.5]), r"p_values.*0\.5 to 1\.5"),
    (lambda: m.tost_non_inferiority([0.1, 0.2], NAN), r"margin=nan.*\b0\b"),
    (lambda: m.tost_non_inferiority([0.1, 0.2], 0.1, alpha=0.5), r"alpha=0\.5.*\b0\b.*0\.5"),
    (lambda: within_group_pairs([1.0, 2.0], ["a", "a"], -1.0), r"min_gap=-1\.0"),
    (lambda: within_group_pairs([1.0, 2.0], ["a", "a"], 0.0, 0), "max_per_group=0"),
    (lambda: m.pareto_front([1, 2]), r"points.*\(2,\)"),
    (lambda: m.hypervolume([[1, 2, 3]], [0, 0]), r"points.*\(1, 3\)"),
    (lambda: m.pass_at_k([8, 4], [1, 1], 5), r"k=5.*\b4\b"),
    (lambda: m.pass_at_k(4, 5, 2), r"num_correct=5.*\b0\b.*num_samples=4"),
    (lambda: m.pass_at_k(4, 1.5, 2), r"num_correct=1\.5"),
    (lambda: m.pass_at_k(4, 2, 0), r"k=0.*\b1\b"),
    (lambda: m.distinct_correct_at_k([0, 1], [1], 1), r"correct_G.*\b1\b.*\b2\b"),
    (lambda: m.distinct_correct_at_k([0, 1], [1, 2], 1), r"correct_G=\[1, 2\].*\b0\b.*\b1\b"),
    (lambda: m.usq_at_k([1, NAN], [0.5, 0.5], 1), r"selector_scores_G\[1\]=nan"),
    (lambda: m.usq_at_k_sampled(lambda shown: 7, [0.5, 0.6], 1), r"select .*\b7\b.*\(0,\)"),
    (lambda: m.usq_at_k_sampled(max, [0.5, 0.6], 1, subsets=0), r"subsets=0.*\b1\b"),
    (lambda: m.sign_flip_permutation_test([0.1], permutations=0), r"permutations=0.*\b1\b"),
    (lambda: fit_success_distribution([0, 0, 0], 4), r"\b3 prompts.*never"),
    (lambda: fit_success_distribution([4, 4], 4), r"\b2 prompts.*always"),
    (lambda: fit_success_distribution([1, 5], 4), r"\b0\b.*num_samples=4"),
    (lambda: fit_success_distribution([0, 1], 1), "num_samples=1"),
    (lambda: SuccessDistribution(1.0, 1.0).pass_at_k(0), r"k=0.*\b0\b"),
    (lambda: m.distinct_n("one text", 1), "texts='one text'"),
    (lambda: m.distinct_n(["a", None], 1), r"texts\[1\].*NoneType"),
    (lambda: m.distinct_n(["a"], 0), r"n=0.*\b1\b"),
    (lambda: m.self_bleu(["a"]), r"texts.*\b1\b.*\b2\b"),
    (lambda: m.expectation_adjusted_distinct(["a b c"], 2), r"vocabulary_size=2\b.*\b3\b"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_argument_is_named_with_its_value_and_limit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
