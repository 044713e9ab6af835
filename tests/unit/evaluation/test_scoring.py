from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import ConfigError, DataError
from polyray.evaluation.bootstrap import ClusterBootstrap
from polyray.evaluation.per_prompt import MetricSettings, compute_table
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.evaluation.selectors import get_selector
from polyray.metrics.bootstrap import bootstrap_mean
from polyray.metrics.significance import sign_flip_permutation_test

SPEC = EvaluationSpec(num_samples=4, ks=(1, 2), selector="logprob", bootstrap_resamples=400)


def samples(
    model: str,
    task_id: str,
    rewards: list[float],
    cluster: str = "",
    *,
    classes: list[int] | None = None,
    logprobs: list[float] | None = None,
) -> list[SampleRecord]:
    """By default all correct samples are one class, and the log-prob falls with the index."""
    return [
        SampleRecord(
            task_id,
            f"c{index}",
            index,
            model=model,
            reward=reward,
            class_id=classes[index] if classes else (1 if reward >= 1 else -1),
            logprob=logprobs[index] if logprobs else -float(index),
            num_tokens=index + 1,
            cluster_id=cluster,
            prompt_sha256=f"h{task_id}",
        )
        for index, reward in enumerate(rewards)
    ]


def value(metrics: dict, model: str, metric: str, k: str) -> float:
    return metrics["models"][model][metric][k]["value"]


def test_values_of_a_case_done_by_hand() -> None:
    records = samples("m", "p", [1, 1, 0, 0], classes=[7, 8, -1, -1]) + samples(
        "m", "q", [0, 0, 0, 1], classes=[-1, -1, -1, 5]
    )
    metrics = score_samples(records, SPEC, ScoringContext(seed=3))
    assert value(metrics, "m", "pass_at_k", "1") == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert value(metrics, "m", "pass_at_k", "2") == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6)) / 2)
    # p: each of two classes is in a pair with 1 - C(3,2)/C(4,2) = 1/2; q: one class
    assert value(metrics, "m", "distinct_correct_at_k", "2") == pytest.approx((1.0 + 0.5) / 2)
    # the log-prob falls with the index: of each pair the earlier one is picked; weights 3/6, 2/6, 1/6, 0
    assert value(metrics, "m", "usq_at_k", "2") == pytest.approx(((3 + 2) / 6 + 0) / 2)
    assert value(metrics, "m", "mean_reward", "value") == pytest.approx(3 / 8)
    assert value(metrics, "m", "completion_length_mean", "value") == pytest.approx(2.5)
    assert value(metrics, "m", "unscored_share", "value") == 0


def test_shape_is_the_contract() -> None:
    records = samples("a", "p", [1, 0, 0, 0], "x") + samples("a", "q", [1, 1, 0, 0], "x")
    metrics = score_samples(records, SPEC, ScoringContext(seed=3))
    assert set(metrics) >= {
        "dataset_sha256",
        "n_problems",
        "n_samples",
        "seed",
        "models",
        "comparisons",
        "selector",
    }
    assert (metrics["n_problems"], metrics["n_clusters"], metrics["n_samples"], metrics["seed"]) == (
        2,
        1,
        4,
        3,
    )
    assert list(metrics["models"]["a"]) == [
        "mean_reward",
        "completion_length_mean",
        "truncated_share",
        "unscored_share",
        "pass_at_k",
        "distinct_correct_at_k",
        "usq_at_k",
        "regret_at_k",
        "selection_efficiency_at_k",
        "diversity_efficiency_ratio",
        "diversity_efficiency_ratio_null",
        "collapse_point",
    ]
    assert set(metrics["models"]["a"]["pass_at_k"]) == {"1", "2"}
    assert set(metrics["models"]["a"]["pass_at_k"]["1"]) == {"value", "low", "high"}
    assert metrics["comparisons"] == []


def test_best_at_k_only_for_graded_rewards() -> None:
    assert (
        "best_at_k"
        not in score_samples(samples("m", "p", [1, 0, 0, 0]), SPEC, ScoringContext(seed=0))["models"]["m"]
    )
    graded = score_samples(samples("m", "p", [0.5, 0.1, 0.0, 1.0]), SPEC, ScoringContext(seed=0))
    # pairs of (0.5, 0.1, 0, 1): maxima .5 .5 1 .1 1 1
    assert value(graded, "m", "best_at_k", "2") == pytest.approx(4.1 / 6)
    assert value(graded, "m", "pass_at_k", "1") == pytest.approx(0.25)


def test_selector_ties_share_the_pick() -> None:
    tied = samples("m", "p", [1, 0, 0, 0], logprobs=[-1.0, -1.0, -1.0, -1.0])
    assert value(score_samples(tied, SPEC, ScoringContext(seed=0)), "m", "usq_at_k", "2") == pytest.approx(
        0.25
    )


def test_pass_threshold_changes_correctness() -> None:
    records = samples("m", "p", [0.8, 0.7, 0.2, 0.1])
    low = score_samples(records, SPEC, ScoringContext(seed=0, pass_threshold=0.75))
    assert value(low, "m", "pass_at_k", "1") == pytest.approx(0.25)
    assert low["pass_threshold"] == 0.75


def test_unscored_samples_leave_the_set() -> None:
    records = samples("m", "p", [1, math.nan, 0, 0])
    metrics = score_samples(records, SPEC, ScoringContext(seed=0))
    assert value(metrics, "m", "pass_at_k", "1") == pytest.approx(1 / 3)
    assert value(metrics, "m", "pass_at_k", "2") == pytest.approx(2 / 3)
    assert value(metrics, "m", "unscored_share", "value") == pytest.approx(0.25)
    assert value(metrics, "m", "completion_length_mean", "value") == pytest.approx(2.5)


def test_too_few_scored_samples_name_the_prompt() -> None:
    records = samples("m", "p", [1, 0, 0, 0]) + samples("m", "q", [1, math.nan, math.nan, math.nan])
    with pytest.raises(DataError, match=r"\bq .*\b1\b.*\bm \(4 .*k=2\b"):
        score_samples(records, SPEC, ScoringContext(seed=0))


def random_records(model: str, chance: float, num_prompts: int = 30) -> list[SampleRecord]:
    rng = random.Random(model)
    return [
        record
        for prompt in range(num_prompts)
        for record in samples(
            model, f"p{prompt}", [float(rng.random() < chance) for _ in range(4)], f"c{prompt // 3}"
        )
    ]


def test_intervals_equal_the_pure_functions() -> None:
    records = random_records("a", 0.3) + random_records("b", 0.7)
    metrics = score_samples(records, SPEC, ScoringContext(seed=5))
    source, settings = (
        SampleList(records),
        MetricSettings(SPEC.ks, "logprob", {"logprob": get_selector("logprob")}),
    )
    tables = {model: compute_table(model, source, source.task_ids(model), settings) for model in "ab"}
    a, b = (tables[model].values["pass_at_k", "2"] for model in "ab")
    clusters = tables["a"].clusters
    mean = bootstrap_mean(a, clusters=clusters, resamples=400, seed=5)
    entry = metrics["models"]["a"]["pass_at_k"]["2"]
    assert (entry["value"], entry["low"], entry["high"]) == pytest.approx((mean.value, mean.low, mean.high))
    [found] = [c for c in metrics["comparisons"] if (c["metric"], c["k"]) == ("pass_at_k", 2)]
    assert (found["model"], found["baseline"]) == ("b", "a")
    interval = bootstrap_mean(b - a, clusters=clusters, resamples=400, seed=5, method="bca")
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (interval.value, interval.low, interval.high)
    )
    assert found["p"] == sign_flip_permutation_test(b - a, clusters, seed=5).p_value
    assert found["effect_sizes"]["cohens_d_z"] == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert "6 metrics x 1 pairs" in found["family"]
    assert found["p_adjusted"] >= found["p"]


def test_bootstrap_over_clusters_is_wider_than_over_prompts_that_agree() -> None:
    values = np.repeat([0.0, 1.0], 50)[:, None]
    shared = ClusterBootstrap.draw(["a"] * 25 + ["b"] * 25 + ["c"] * 25 + ["d"] * 25, 500, 0.95, 0).intervals(
        values
    )
    single = ClusterBootstrap.draw([str(i) for i in range(100)], 500, 0.95, 0).intervals(values)
    assert (shared[1][0], shared[2][0]) == (0.0, 1.0)
    assert 0.38 < single[1][0] < 0.43 and 0.57 < single[2][0] < 0.62


def test_comparisons_put_the_baseline_first_and_cover_all_pairs() -> None:
    records = random_records("warm", 0.3) + random_records("base", 0.5) + random_records("set", 0.6)
    metrics = score_samples(records, SPEC, ScoringContext(seed=0, baseline="base"))
    pairs = list(dict.fromkeys((c["model"], c["baseline"]) for c in metrics["comparisons"]))
    assert pairs == [("warm", "base"), ("set", "base"), ("set", "warm")]
    assert {c["metric"] for c in metrics["comparisons"]} == {"pass_at_k", "distinct_correct_at_k", "usq_at_k"}
    assert metrics["baseline"] == "base"


def test_a_model_compared_with_its_twin_differs_by_nothing() -> None:
    twin = [
        SampleRecord(**{**{f: getattr(r, f) for f in r.__slots__}, "model": "twin"})
        for r in random_records("a", 0.4)
    ]
    metrics = score_samples(random_records("a", 0.4) + twin, SPEC, ScoringContext(seed=0))
    assert {(c["difference"], c["low"], c["high"]) for c in metrics["comparisons"]} == {(0.0, 0.0, 0.0)}


def test_prompts_in_another_order_are_paired_by_id() -> None:
    shuffled = list(reversed(random_records("b", 0.7)))
    straight = score_samples(
        random_records("a", 0.3) + random_records("b", 0.7), SPEC, ScoringContext(seed=0)
    )
    assert score_samples(random_records("a", 0.3) + shuffled, SPEC, ScoringContext(seed=0)) == straight


def test_models_must_share_their_prompts() -> None:
    with pytest.raises(DataError, match=r"\bb and a\b.*\b1\b.*\bq\b"):
        different = samples("a", "p", [1, 0]) + samples("b", "p", [1, 0]) + samples("b", "q", [1, 0])
        score_samples(different, SPEC, ScoringContext(seed=0))
    renamed = [replace(record, prompt_sha256="other") for record in samples("b", "p", [1, 0])]
    with pytest.raises(DataError, match=r"\bp .*prompt_sha256"):
        score_samples(samples("a", "p", [1, 0]) + renamed, SPEC, ScoringContext(seed=0))


def test_double_samples_and_unknown_baselines_are_refused() -> None:
    with pytest.raises(DataError, match="sample 0 of p"):
        score_samples(samples("a", "p", [1, 0]) + samples("a", "p", [1]), SPEC, ScoringContext(seed=0))
    with pytest.raises(ConfigError, match=r"compare_to='z'.* a\b"):
        score_samples(samples("a", "p", [1, 0]), SPEC, ScoringContext(seed=0, baseline="z"))


def test_dataset_hash_depends_on_the_prompts_alone() -> None:
    a = samples("a", "p", [1, 0]) + samples("a", "q", [1, 0])
    same = samples("b", "q", [0, 1]) + samples("b", "p", [0, 1])

    def sha256(given: Sequence[SampleRecord]) -> str:
        return score_samples(given, SPEC, ScoringContext(seed=0))["dataset_sha256"]

    assert sha256(a) == sha256(same)
    assert sha256(a) != sha256(a + samples("a", "r", [1, 0]))


def test_bounds_of_a_selector_by_hand() -> None:
    # The earlier one of each pair is picked: USQ@2 = (3 + 2)/6; the best of a pair is 1 in 5 of 6; blind 1/2.
    metrics = score_samples(samples("m", "p", [1, 1, 0, 0]), SPEC, ScoringContext(seed=0))
    assert value(metrics, "m", "regret_at_k", "2") == pytest.approx(0.0)
    assert value(metrics, "m", "selection_efficiency_at_k", "2") == pytest.approx(1.0)
    assert value(metrics, "m", "selection_efficiency_at_k", "1") is None  # nothing to choose
    blind = samples("m", "p", [1, 0, 0, 1], logprobs=[0.0] * 4)
    metrics = score_samples(blind, SPEC, ScoringContext(seed=0))
    assert value(metrics, "m", "selection_efficiency_at_k", "2") == pytest.approx(0.0)
    assert value(metrics, "m", "regret_at_k", "2") == pytest.approx(5 / 6 - 1 / 2)


def test_the_efficiency_of_diversity_stands_beside_its_null() -> None:
    records = samples("m", "p", [1, 0, 0, 0]) + samples("m", "q", [1, 1, 1, 0])
    metrics = score_samples(records, SPEC, ScoringContext(seed=0))
    pass_1, pass_2 = (1 / 4 + 3 / 4) / 2, ((1 - 3 / 6) + 1) / 2
    assert value(metrics, "m", "diversity_efficiency_ratio", "2") == pytest.approx(pass_2 / (2 * pass_1))
    null = (1 - (1 - pass_1) ** 2) / (2 * pass_1)
    assert value(metrics, "m", "diversity_efficiency_ratio_null", "2") == pytest.approx(null)
    wrong = score_samples(samples("m", "p", [0, 0, 0, 0]), SPEC, ScoringContext(seed=0))
    assert value(wrong, "m", "diversity_efficiency_ratio", "2") is None  # pass@1 is 0


def test_the_collapse_point_is_looked_for_on_every_k() -> None:
    # pass@k of 1 in 4: .25 .5 .75 1 never stays small; 4 of 4: 1 1 1 1 stays from the start.
    never = score_samples(samples("m", "p", [1, 0, 0, 0]), SPEC, ScoringContext(seed=0))
    assert value(never, "m", "collapse_point", "value") is None
    always = score_samples(samples("m", "p", [1, 1, 1, 1]), SPEC, ScoringContext(seed=0))
    assert value(always, "m", "collapse_point", "value") == 1


def test_saturation_is_a_warning() -> None:
    metrics = score_samples(samples("m", "p", [1, 1, 1, 1]), SPEC, ScoringContext(seed=0))
    assert re.match(r"m: pass@1 .*\b0\.95", metrics["warnings"][0])
    assert score_samples(samples("m", "p", [1, 0, 0, 0]), SPEC, ScoringContext(seed=0))["warnings"] == []


def test_a_selector_that_was_the_training_reward_is_refused() -> None:
    spec = SPEC.model_copy(update={"more_selectors": ("reward",)})
    records = random_records("base", 0.3) + random_records("tuned", 0.6)
    context = ScoringContext(
        seed=0, reward="verifier on x", trained_on={"base": None, "tuned": "verifier on x"}
    )
    metrics = score_samples(records, spec, context)
    assert "usq_at_k/reward" in metrics["models"]["base"]
    assert "usq_at_k/reward" not in metrics["models"]["tuned"]
    assert "trained" in metrics["selectors"]["reward"]["refused"]["tuned"]
    assert {c["metric"] for c in metrics["comparisons"]} == {"pass_at_k", "distinct_correct_at_k", "usq_at_k"}
    allowed = score_samples(records, spec.model_copy(update={"allow_self_selection": True}), context)
    oracle = allowed["models"]["tuned"]["usq_at_k/reward"]["2"]["value"]
    assert oracle == pytest.approx(allowed["models"]["tuned"]["pass_at_k"]["2"]["value"])
    assert "refused" not in allowed["selectors"]["reward"]
    assert len(allowed["selectors"]["reward"]["sha256"]) == 64


def test_a_margin_gives_a_verdict_on_pass_at_1() -> None:
    spec = SPEC.model_copy(update={"margin": 0.05})
    metrics = score_samples(random_records("a", 0.3) + random_records("b", 0.9), spec, ScoringContext(seed=0))
    verdicts = {(c["metric"], c["k"]): c["non_inferiority"] for c in metrics["comparisons"]}
    assert verdicts["pass_at_k", 1]["non_inferior"] is True
    assert verdicts["pass_at_k", 2] is None
