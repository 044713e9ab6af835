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


def test_status_of_a_downward_change_is_a_failure() -> None:
    assert SIGNIFICANCE.status(0.001, is_upwards=False) == "fail"
    assert EFFECT_SIZE.status(None, is_upwards=False) == "not_measured"


def of(paths: list[Path], model: str = "new") -> dict[str, dict[str, Any]]:
    entries = criteria(read_inputs(paths))["criteria"]
    return {entry["criterion"]: entry for entry in entries if entry["model"] == model}


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation" / "metrics.json").read_text())


def test_criteria_have_the_values_of_their_sources(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, ks=(1, 2, 4), baseline="old")
    found, metrics = of([run]), metrics_of(run)
    key = {"metric": "pass_at_k", "k": 4, "model": "new"}
    [entry] = [each for each in metrics["comparisons"] if key.items() <= each.items()]
    significance, effect, passed = (found[name] for name in ("significance", "effect_size", "pass_at_k"))
    assert significance["value"] == entry["p_adjusted"]
    assert significance["title"] == "p of pass@4 after correction"
    assert significance["detail"] == entry["family"] and "holm" in entry["family"]
    assert effect["value"] == entry["effect_sizes"]["cohens_d"]
    # Prompts solved at least once in four samples: 4 of 6 by old, 5 of 6 by new.
    assert passed["value"] == pytest.approx(5 / 4 - 1) and passed["status"] == "pass_target"
    for each in (significance, effect):
        [source] = each["sources"]
        assert at_pointer(metrics, source["key"]) == each["value"]
    assert [at_pointer(metrics, source["key"]) for source in passed["sources"]] == pytest.approx(
        [5 / 6, 4 / 6]
    )
    wide = {name: [row * 3 for row in rows] for name, rows in MODELS.items()}
    run = write_run(tmp_path / "wide", wide, ks=(1, 8, 12), baseline="old")
    assert of([run])["pass_at_k"]["title"] == "pass@8, relative to the baseline", "the largest k up to 10"


def test_criteria_of_a_worse_model_fail(tmp_path: Path) -> None:
    found = of([write_run(tmp_path / "eval", MODELS, ks=(1, 2), baseline="new")], "old")
    assert found["effect_size"]["value"] < -0.3 and found["effect_size"]["status"] == "fail"
    assert found["significance"]["status"] == "fail" and "not upwards" in found["significance"]["detail"]


def test_criteria_that_were_not_measured_name_what_measures_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="old")
    found = of([run])
    for criterion, option in (("rouge_l", "text_metrics: [reference]"), ("judge_win_rate", "polyray judge")):
        entry = found[criterion]
        assert (entry["status"], entry["value"], entry["sources"]) == ("not_measured", None, [])
        assert option in entry["measured_by"]
    assert found["pass_at_k"]["measured_by"] is None
    alone = write_run(tmp_path / "alone", {"old": MODELS["old"]})
    [reward] = criteria(read_inputs([alone]))["criteria"]
    assert (reward["criterion"], reward["domain"], reward["status"]) == (
        "reward_correlation",
        "rewards",
        "not_measured",
    )
    assert "polyray evaluate reward" in reward["measured_by"]
    zero = write_run(tmp_path / "zero", {"old": [NEVER, NEVER], "new": [HALF, ALWAYS]}, baseline="old")
    entry = of([zero])["pass_at_k"]
    assert entry["status"] == "not_measured" and "the baseline has 0" in entry["detail"]


def test_criteria_read_text_metrics_judges_and_rewards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "eval", MODELS, baseline="old")
    models = metrics_of(run)["models"]
    for name, value in (("old", 0.5), ("new", 0.44)):
        models[name]["rouge_l"] = {"value": {"value": value, "low": value, "high": value}}
    change_metrics(run, models=models)
    pairs = [
        {"model": "else", "baseline": "old", "win_rate": {"value": 0.9}},
        {"model": "new", "baseline": "old", "win_rate": {"value": 0.61, "low": 0.57, "high": 0.65}},
    ]
    summary = write_judge(run, pairs)
    paths = [run, write_validated_reward(tmp_path / "rewards", 0.62)]
    found = of(paths)
    assert found["rouge_l"]["value"] == pytest.approx(-0.12) and found["rouge_l"]["status"] == "fail"
    judged = found["judge_win_rate"]
    assert (judged["value"], judged["status"], judged["detail"]) == (0.61, "pass", "a judge, complete")
    [source] = judged["sources"]
    assert (source["file"], source["key"]) == (str(summary), "/pairs/1/win_rate/value")
    assert of(paths, "length") == {}, "a baseline of the validation"
    [reward] = of(paths, "mine").values()
    assert (reward["value"], reward["status"]) == (0.62, "pass")
    assert reward["sources"][0]["key"] == "/models/mine/spearman_within/value/value"
