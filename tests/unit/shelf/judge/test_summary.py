"""Win rates, position bias and means against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from polyray.config.judge import JudgeMode
from polyray.metrics import bootstrap_mean
from polyray.shelf.judge.items import Judgement, Usage
from polyray.shelf.judge.summary import Intervals, summarise, summary_table

INTERVALS = Intervals(resamples=500, confidence=0.9, seed=3)
COST = Usage(2, 200, 80, 20, 0.001)


def row(
    mode: JudgeMode,
    task: str,
    result: dict[str, Any],
    models: tuple[str, ...] = ("new", "old"),
    reason: str | None = None,
) -> Judgement:
    return Judgement(
        item_id=f"{task}|{models}", mode=mode, task_id=task, cluster_id=task[0], models=models,
        samples=(0,) * len(models), status="judged" if reason is None else "unjudged", reason=reason,
        result=result, usage=COST, requests=("k",), judge="openai/m",
    )  # fmt: skip


def pair(task: str, orders: str, wit: str = "tie", model: str = "new") -> Judgement:
    """A pair with the verdicts of two orders, such as "a b"."""
    first, second = orders.split()
    verdict = first if first == second else "tie"
    sides = {"orders": [first, second], "flipped": first != second}
    return row("pairwise", task, {"verdict": verdict, "criteria": {"wit": wit}, **sides}, (model, "old"))


def interval(values: list[float], clusters: list[str]) -> dict[str, float]:
    found = bootstrap_mean(values, clusters, 500, 0.9, 3)
    return {"value": found.value, "low": found.low, "high": found.high, "n_prompts": len(values)}


def test_win_rates_count_ties_as_half_and_weigh_prompts_equally() -> None:
    rows = [
        pair("a1", "a a", wit="a"),
        pair("a1", "b b", wit="a"),  # two pairs of one prompt: its value is 0.5
        pair("a2", "a a", wit="b"),
        pair("b1", "a b", wit="tie"),  # first in either order: a tie
        pair("b2", "tie tie", wit="a"),
        pair("b2", "b b", model="third"),
    ]
    first, second = summarise(rows, INTERVALS)["pairs"]
    assert (first["model"], first["baseline"]) == ("new", "old")
    assert first["win_rate"] == interval([0.5, 1.0, 0.5, 0.5], ["a", "a", "b", "b"])
    assert (first["wins"], first["ties"], first["losses"]) == (2, 2, 1)
    assert first["criteria"]["wit"]["win_rate"]["value"] == pytest.approx((1.0 + 0.0 + 0.5 + 1.0) / 4)
    assert (second["model"], second["win_rate"]["value"]) == ("third", 0.0)


def test_position_bias_counts_decided_answers_of_each_prompt() -> None:
    rows = [
        pair("a1", "a b"),  # the first of both orders: two of two, reversed
        pair("a2", "a a"),  # one of two
        pair("b1", "tie b"),  # one decided answer, in which the first one (b) won; flipped, not reversed
        pair("b2", "b a"),  # the second of both orders: none of two, reversed
        pair("c1", "tie tie"),
    ]
    bias = summarise(rows, INTERVALS)["position_bias"]
    assert bias["n_decided_answers"] == 7
    # The mean over prompts of each prompt's share of decided answers: (1 + 1/2 + 1 + 0) / 4
    assert bias["first_share"] == interval([1.0, 0.5, 1.0, 0.0], ["a", "a", "b", "b"])
    assert (bias["flip_share"]["value"], bias["reversals"], bias["n_pairs"]) == (0.6, 2, 5)


def test_summary_of_rubrics_has_means_per_criterion_and_model() -> None:
    scored = [("a1", "new", 5, 3), ("a1", "new", 3, 3), ("b1", "new", 2, 1), ("a1", "old", 1, 1)]
    rows = [
        row(
            "rubric",
            task,
            {"scores": {"wit": wit, "depth": depth}, "quality": (wit + depth - 2) / 8},
            (model,),
        )
        for task, model, wit, depth in scored
    ]
    models = summarise(rows, INTERVALS)["models"]
    assert models["new"]["wit"] == interval([4.0, 2.0], ["a", "b"])
    assert models["new"]["depth"]["value"] == 2.0
    assert models["new"]["quality"]["value"] == pytest.approx(((6 / 8 + 4 / 8) / 2 + 1 / 8) / 2)
    assert models["old"]["wit"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n_prompts": 1}


def test_summary_of_clusters_counts_strategies_without_garbage() -> None:
    classes = {"a1": [0, 1, -1, 0], "b1": [-1, -1]}
    rows = [row("cluster", task, {"classes": own}, ("new",) * len(own)) for task, own in classes.items()]
    values = summarise(rows, INTERVALS)["models"]["new"]
    names = ("strategies", "strategies_per_candidate", "garbage_share")
    assert [values[name]["value"] for name in names] == [1.0, 0.25, (0.25 + 1.0) / 2]


def test_summary_counts_unjudged_items_and_leaves_them_out_of_means() -> None:
    reasons = {
        "a2": "invalid answer in 3 tries: empty",
        "b1": "invalid answer in 3 tries",
        "b2": "no answer: x",
    }
    unjudged = [row("pairwise", task, {}, reason=reason) for task, reason in reasons.items()]
    summary = summarise([pair("a1", "a a"), *unjudged], INTERVALS)
    assert (summary["n_items"], summary["n_judged"], summary["n_unjudged"]) == (4, 1, 3)
    assert summary["unjudged_reasons"] == {"invalid answer": 2, "no answer": 1}
    assert summary["pairs"][0]["win_rate"]["value"] == 1.0
    usage = {"requests": 8, "input_tokens": 800, "cached_tokens": 320, "output_tokens": 80, "cost_usd": 0.004}
    assert summary["usage"] == usage
    table = summary_table(summary)
    assert "1 of 4 judged (3 unjudged, 2 invalid answer, 1 no answer)" in table
    assert "800 + 80 tokens, $0.0040" in table
    empty = summarise(unjudged, INTERVALS)
    assert empty["pairs"] == [] and empty["position_bias"]["first_share"] is None
    assert "won - of 0 decided answers" in summary_table(empty)
    assert "nothing was judged" in summary_table(summarise([]))


def test_summary_table_shows_every_pair_and_the_bias() -> None:
    lines = summary_table(summarise([pair("a1", "a a"), pair("b1", "a a")], INTERVALS)).splitlines()
    assert lines[1].split() == ["new", "old", "1.000", "[1.000,", "1.000]", "2", "0", "0"]
    assert "the text shown first won 0.500" in lines[2]
