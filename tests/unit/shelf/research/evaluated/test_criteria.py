from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyray.shelf.research.evaluated.criteria import (
    EFFECT_SIZE,
    JUDGE,
    PASS_AT_K,
    REWARD,
    ROUGE,
    SIGNIFICANCE,
    Rule,
    criteria,
)
from polyray.shelf.research.evaluated.inputs import read_inputs
from tests.unit.shelf.research.evaluated.evaluated_fixtures import (
    WRONG,
    at_pointer,
    change_metrics,
    write_judge,
    write_run,
    write_validated_reward,
)

NEVER, HALF, ALWAYS = [WRONG] * 4, [0, WRONG, 0, WRONG], [0] * 4
MODELS = {"old": [HALF, NEVER, HALF, NEVER, HALF, HALF], "new": [ALWAYS, HALF, HALF, NEVER, ALWAYS, ALWAYS]}


@pytest.mark.parametrize(
    ("rule", "value", "status"),
    [
        (SIGNIFICANCE, 0.0099, "pass_target"), (SIGNIFICANCE, 0.01, "pass"), (SIGNIFICANCE, 0.05, "fail"),
        (EFFECT_SIZE, 0.51, "pass_target"), (EFFECT_SIZE, 0.5, "pass"), (EFFECT_SIZE, 0.3, "fail"),
        (PASS_AT_K, 0.25, "pass_target"), (PASS_AT_K, 0.15, "pass"), (PASS_AT_K, 0.149, "fail"),
        (ROUGE, -0.1, "pass"), (ROUGE, -0.101, "fail"), (ROUGE, 0.3, "pass"),
        (JUDGE, 0.551, "pass"), (JUDGE, 0.55, "fail"),
        (REWARD, 0.501, "pass"), (REWARD, 0.5, "fail"), (REWARD, None, "not_measured"),
    ],
)  # fmt: skip
def test_status_follows_the_limits_of_the_research(rule: Rule, value: float | None, status: str) -> None:
    assert rule.status(value) == status


def test_success_is_upwards() -> None:
    assert SIGNIFICANCE.status(0.001, is_upwards=False) == "fail"
    assert EFFECT_SIZE.status(None, is_upwards=False) == "not_measured"


def of(paths: list[Path], model: str = "new") -> dict[str, dict[str, Any]]:
    entries = criteria(read_inputs(paths))["criteria"]
    return {entry["criterion"]: entry for entry in entries if entry["model"] == model}


def test_values_of_criteria_match_their_sources(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 2, 4), baseline="old")
    found = of([run])
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    [number] = [
        place
        for place, entry in enumerate(metrics["comparisons"])
        if (entry["metric"], entry["k"], entry["model"]) == ("pass_at_k", 4, "new")
    ]
    entry = metrics["comparisons"][number]
    assert found["significance"]["value"] == entry["p_adjusted"]
    assert found["significance"]["title"] == "p of pass@4 after correction"
    assert found["significance"]["detail"] == entry["family"] and "holm" in entry["family"]
    assert found["effect_size"]["value"] == entry["effect_sizes"]["cohens_d"]
    # Prompts solved at least once in four samples: 4 of 6 by old, 5 of 6 by new.
    assert (
        found["pass_at_k"]["value"] == pytest.approx(5 / 4 - 1)
        and found["pass_at_k"]["status"] == "pass_target"
    )
    for criterion in ("significance", "effect_size"):
        [source] = found[criterion]["sources"]
        assert at_pointer(metrics, source["key"]) == found[criterion]["value"]
    own, other = (at_pointer(metrics, source["key"]) for source in found["pass_at_k"]["sources"])
    assert (own, other) == pytest.approx((5 / 6, 4 / 6))


def test_k_is_the_largest_up_to_10(tmp_path: Path) -> None:
    wide = {name: [row * 3 for row in rows] for name, rows in MODELS.items()}
    run = write_run(tmp_path / "eval", wide, ks=(1, 8, 12), baseline="old")
    assert of([run])["pass_at_k"]["title"] == "pass@8, relative to the baseline"


def test_a_worse_model_has_no_success(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="new")
    found = of([run], "old")
    assert found["effect_size"]["value"] < -0.3 and found["effect_size"]["status"] == "fail"
    assert found["significance"]["status"] == "fail" and "not upwards" in found["significance"]["detail"]


def test_unmeasured_criterion_names_the_option_that_measures_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="old")
    found = of([run])
    for criterion, option in (("rouge_l", "text_metrics: [reference]"), ("judge_win_rate", "polyray judge")):
        assert found[criterion]["status"] == "not_measured" and option in found[criterion]["measured_by"]
        assert found[criterion]["value"] is None and found[criterion]["sources"] == []
    [reward] = [entry for entry in criteria(read_inputs([run]))["criteria"] if entry["domain"] == "rewards"]
    assert reward["status"] == "not_measured" and "polyray evaluate reward" in reward["measured_by"]
    assert found["pass_at_k"]["measured_by"] is None


def test_text_metrics_judges_and_rewards_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="old")
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    for name, value in (("old", 0.5), ("new", 0.44)):
        metrics["models"][name]["rouge_l"] = {"value": {"value": value, "low": value, "high": value}}
    change_metrics(run, models=metrics["models"])
    pairs = [
        {"model": "else", "baseline": "old", "win_rate": {"value": 0.9}},
        {"model": "new", "baseline": "old", "win_rate": {"value": 0.61, "low": 0.57, "high": 0.65}},
    ]
    summary = write_judge(run, pairs)
    rewards = write_validated_reward(tmp_path / "rewards", 0.62)
    found = of([run, rewards])
    assert found["rouge_l"]["value"] == pytest.approx(-0.12) and found["rouge_l"]["status"] == "fail"
    judged = found["judge_win_rate"]
    assert (judged["value"], judged["status"], judged["detail"]) == (0.61, "pass", "a judge, complete")
    assert (
        judged["sources"][0]["file"] == str(summary)
        and judged["sources"][0]["key"] == "/pairs/1/win_rate/value"
    )
    assert of([run, rewards], "length") == {}, "a baseline of the validation"
    [reward] = of([run, rewards], "mine").values()
    assert (reward["value"], reward["status"]) == (0.62, "pass")
    assert reward["sources"][0]["key"] == "/models/mine/spearman_within/value/value"


def test_relative_criterion_with_a_baseline_of_zero_is_not_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", {"old": [NEVER, NEVER], "new": [HALF, ALWAYS]}, baseline="old")
    entry = of([run])["pass_at_k"]
    assert entry["status"] == "not_measured" and "the baseline has 0" in entry["detail"]


def test_single_model_has_only_the_criterion_of_rewards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", {"old": MODELS["old"]})
    assert [entry["criterion"] for entry in criteria(read_inputs([run]))["criteria"]] == [
        "reward_correlation"
    ]
