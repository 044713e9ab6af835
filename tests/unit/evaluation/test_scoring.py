from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from polyray.config.evaluation import EvaluationSpec
from polyray.errors import ConfigError, DataError
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
    rewards: Sequence[float],
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


def scored(records: Sequence[SampleRecord], spec: EvaluationSpec = SPEC, **context: Any) -> dict[str, Any]:
    return score_samples(records, spec, ScoringContext(seed=0, **context))


def value(metrics: dict, metric: str, k: str = "value", model: str = "m") -> float:
    return metrics["models"][model][metric][k]["value"]


def test_scores_of_a_small_case_equal_values_by_hand() -> None:
    records = samples("m", "p", [1, 1, 0, 0], "x", classes=[7, 8, -1, -1])
    records += samples("m", "q", [0, 0, 0, 1], "x", classes=[-1, -1, -1, 5])
    metrics = scored(records)
    counts = (metrics["n_problems"], metrics["n_clusters"], metrics["n_samples"], metrics["seed"])
    assert counts == (2, 1, 4, 0) and metrics["comparisons"] == []
    assert (
        set(metrics["models"]["m"]["pass_at_k"]) == {"1", "2"} and "best_at_k" not in metrics["models"]["m"]
    )
    assert value(metrics, "pass_at_k", "1") == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert value(metrics, "pass_at_k", "2") == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6)) / 2)
    # p: each of two classes is in a pair with 1 - C(3,2)/C(4,2) = 1/2; q: one class
    assert value(metrics, "distinct_correct_at_k", "2") == pytest.approx((1.0 + 0.5) / 2)
    # the log-prob falls with the index: of each pair the earlier one is picked; weights 3/6, 2/6, 1/6, 0
    assert value(metrics, "usq_at_k", "2") == pytest.approx(((3 + 2) / 6 + 0) / 2)
    assert value(metrics, "mean_reward") == pytest.approx(3 / 8)
    assert value(metrics, "completion_length_mean") == pytest.approx(2.5)
    assert value(metrics, "unscored_share") == 0
    # the earlier one is the best of each pair of p: nothing is lost, and a blind pick would lose
    metrics = scored(samples("m", "p", [1, 1, 0, 0]))
    assert value(metrics, "regret_at_k", "2") == pytest.approx(0.0)
    assert value(metrics, "selection_efficiency_at_k", "2") == pytest.approx(1.0)
    assert value(metrics, "selection_efficiency_at_k", "1") is None  # nothing to choose
    metrics = scored(samples("m", "p", [1, 0, 0, 1], logprobs=[0.0] * 4))
    assert value(metrics, "usq_at_k", "2") == pytest.approx(1 / 2)
    assert value(metrics, "selection_efficiency_at_k", "2") == pytest.approx(0.0)
    assert value(metrics, "regret_at_k", "2") == pytest.approx(5 / 6 - 1 / 2)


def test_graded_rewards_have_best_at_k_and_a_threshold() -> None:
    records = samples("m", "p", [0.5, 0.1, 0.0, 1.0])
    metrics = scored(records)
    # pairs of (0.5, 0.1, 0, 1): maxima .5 .5 1 .1 1 1
    assert value(metrics, "best_at_k", "2") == pytest.approx(4.1 / 6)
    assert value(metrics, "pass_at_k", "1") == pytest.approx(0.25)
    low = scored(records, pass_threshold=0.5)
    assert value(low, "pass_at_k", "1") == pytest.approx(0.5) and low["pass_threshold"] == 0.5


def test_unscored_samples_leave_the_set() -> None:
    metrics = scored(samples("m", "p", [1, math.nan, 0, 0]))
    assert value(metrics, "pass_at_k", "1") == pytest.approx(1 / 3)
    assert value(metrics, "pass_at_k", "2") == pytest.approx(2 / 3)
    assert value(metrics, "unscored_share") == pytest.approx(0.25)
    assert value(metrics, "completion_length_mean") == pytest.approx(2.5)


def test_k_that_an_unscored_sample_takes_away_is_left_out_with_a_warning() -> None:
    records = samples("m", "p", [1, math.nan]) + samples("m", "q", [0, 1])
    metrics = scored(records)
    assert list(metrics["models"]["m"]["pass_at_k"]) == ["1"] and value(metrics, "pass_at_k", "1") == 0.75
    assert metrics["warnings"][0].startswith("k = 2 left out: a prompt has only 1 scored samples")
    with pytest.raises(DataError, match="p has 0 scored samples"):
        scored(samples("m", "p", [math.nan, math.nan]))
    with pytest.raises(DataError, match=r"\b1 scored samples .*k=2"):
        scored(samples("m", "p", [1]))


def random_records(model: str, chance: float) -> list[SampleRecord]:
    rng = random.Random(model)
    rewards = [[float(rng.random() < chance) for _ in range(4)] for _ in range(30)]
    return [r for at, row in enumerate(rewards) for r in samples(model, f"p{at}", row, f"c{at // 3}")]


def test_intervals_and_comparisons_equal_the_pure_functions() -> None:
    records = random_records("a", 0.3) + random_records("b", 0.9)
    metrics = score_samples(records, SPEC.model_copy(update={"margin": 0.05}), ScoringContext(seed=5))
    source = SampleList(records)
    settings = MetricSettings(SPEC.ks, "logprob", {"logprob": get_selector("logprob")})
    tables = {model: compute_table(model, source, source.task_ids(model), settings) for model in "ab"}
    a, b = (tables[model].values["pass_at_k", "2"] for model in "ab")
    clusters = tables["a"].clusters
    mean = bootstrap_mean(a, clusters=clusters, resamples=400, seed=5)
    entry = metrics["models"]["a"]["pass_at_k"]["2"]
    assert (entry["value"], entry["low"], entry["high"]) == pytest.approx((mean.value, mean.low, mean.high))
    [found] = [c for c in metrics["comparisons"] if (c["metric"], c["k"]) == ("pass_at_k", 2)]
    assert (found["model"], found["baseline"]) == ("b", "a")
    interval = bootstrap_mean(b - a, clusters=clusters, resamples=400, seed=5, method="bca")
    expected = (interval.value, interval.low, interval.high)
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(expected)
    assert found["p"] == sign_flip_permutation_test(b - a, clusters, seed=5).p_value <= found["p_adjusted"]
    assert found["effect_sizes"]["cohens_d_z"] == pytest.approx((b - a).mean() / (b - a).std(ddof=1))
    assert "6 metrics x 1 pairs" in found["family"]
    verdicts = {(c["metric"], c["k"]): c["non_inferiority"] for c in metrics["comparisons"]}
    assert verdicts["pass_at_k", 1]["non_inferior"] is True and verdicts["pass_at_k", 2] is None


def test_comparisons_cover_all_pairs_with_the_baseline_first() -> None:
    records = random_records("warm", 0.3) + random_records("base", 0.5) + random_records("set", 0.6)
    metrics = scored(records, baseline="base")
    pairs = list(dict.fromkeys((c["model"], c["baseline"]) for c in metrics["comparisons"]))
    assert pairs == [("warm", "base"), ("set", "base"), ("set", "warm")]
    assert metrics["baseline"] == "base"


def test_scores_do_not_depend_on_the_order_of_prompts() -> None:
    first, second = random_records("a", 0.3), random_records("b", 0.7)
    assert scored(first + second[::-1]) == scored(first + second)

    def sha256(*task_ids: str) -> str:
        return scored([record for name in task_ids for record in samples("a", name, [1, 0])])[
            "dataset_sha256"
        ]

    assert sha256("p", "q") == sha256("q", "p") != sha256("p", "q", "r")


ONE, OTHER = samples("a", "p", [1, 0]), samples("b", "p", [1, 0])


@pytest.mark.parametrize(
    ("records", "context", "message"),
    [
        ([*ONE, *OTHER, *samples("b", "q", [1, 0])], {}, r"\bb and a\b.*\b1\b.*\bq\b"),
        ([*ONE, *(replace(record, prompt_sha256="other") for record in OTHER)], {}, r"\bp .*prompt_sha256"),
        ([*ONE, *samples("a", "p", [1])], {}, "sample 0 of p"),
        (ONE, {"baseline": "z"}, r"compare_to='z'.* a\b"),
    ],
)
def test_records_that_cannot_be_compared_are_refused(records, context, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        scored(records, **context)


def test_curves_have_diversity_efficiency_collapse_point_and_saturation() -> None:
    metrics = scored(samples("m", "p", [1, 0, 0, 0]) + samples("m", "q", [1, 1, 1, 0]))
    pass_1, pass_2 = (1 / 4 + 3 / 4) / 2, ((1 - 3 / 6) + 1) / 2
    assert value(metrics, "diversity_efficiency_ratio", "2") == pytest.approx(pass_2 / (2 * pass_1))
    null = (1 - (1 - pass_1) ** 2) / (2 * pass_1)
    assert value(metrics, "diversity_efficiency_ratio_null", "2") == pytest.approx(null)
    assert value(scored(samples("m", "p", [0] * 4)), "diversity_efficiency_ratio", "2") is None, "pass@1 is 0"
    # pass@k of 1 in 4: .25 .5 .75 1 never stays small; 4 of 4: 1 1 1 1 stays from the start.
    never, always = (scored(samples("m", "p", rewards)) for rewards in ([1, 0, 0, 0], [1] * 4))
    assert (value(never, "collapse_point"), never["warnings"]) == (None, [])
    assert value(always, "collapse_point") == 1
    assert re.match(r"m: pass@1 .*\b0\.95", always["warnings"][0])


def test_selector_that_was_the_training_reward_is_refused() -> None:
    spec = SPEC.model_copy(update={"more_selectors": ("reward",)})
    records = random_records("base", 0.3) + random_records("tuned", 0.6)
    context = {"reward": "verifier on x", "trained_on": {"base": None, "tuned": "verifier on x"}}
    metrics = scored(records, spec, **context)
    assert "usq_at_k/reward" in metrics["models"]["base"]
    assert "usq_at_k/reward" not in metrics["models"]["tuned"]
    assert "trained" in metrics["selectors"]["reward"]["refused"]["tuned"]
    assert {c["metric"] for c in metrics["comparisons"]} == {"pass_at_k", "distinct_correct_at_k", "usq_at_k"}
    allowed = scored(records, spec.model_copy(update={"allow_self_selection": True}), **context)
    oracle = value(allowed, "usq_at_k/reward", "2", "tuned")
    assert oracle == pytest.approx(value(allowed, "pass_at_k", "2", "tuned"))
    assert "refused" not in allowed["selectors"]["reward"]
    assert len(allowed["selectors"]["reward"]["sha256"]) == 64
