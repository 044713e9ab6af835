"""`polyray evaluate reward` end to end: a planted scorer, a scorer that is length, resuming, mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.cli.evaluate import main
from polyray.errors import ConfigError, DataError, MissingFile, RewardError
from polyray.report.run_data import load_report_data
from polyray.runs.jsonl import read_jsonl
from polyray.shelf.preferences.reward_evaluation.scorers import RandomScorer
from tests.unit.shelf.preferences.reward_evaluation.planted import planted_reward, records, write_records

ACCURACY = 0.8


def write_config(directory: Path, **sections: Any) -> Path:
    values: dict[str, Any] = {
        "name": "check",
        "runs_dir": str(directory / "runs"),
        "data": {"path": str(directory / "records.jsonl")},
        "models": {"planted": planted_reward(directory), "as length": {"type": "length"}},
        "probes": {"num_completions": 40},
        "bootstrap_resamples": 200,
        "permutations": 500,
        "min_slice_pairs": 10,
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(values | sections, sort_keys=False), encoding="utf-8")
    return path


def read_metrics(directory: Path, name: str = "check") -> dict[str, Any]:
    return json.loads((directory / "runs" / name / "evaluation/metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished run on 100 test prompts in 50 clusters."""
    directory = tmp_path_factory.mktemp("reward")
    write_records(directory / "records.jsonl", records(100, ACCURACY))
    assert main(["reward", str(write_config(directory))]) == 0
    return directory


def comparison(metrics: dict[str, Any], model: str, baseline: str) -> dict[str, Any]:
    return next(
        entry for entry in metrics["comparisons"] if (entry["model"], entry["baseline"]) == (model, baseline)
    )


def test_validation_reports_planted_accuracy_and_length_as_length(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert (metrics["n_pairs"], metrics["n_clusters"], metrics["n_samples"]) == (100, 50, 200)
    planted, length = (
        metrics["models"][name]["pairwise_accuracy"]["value"] for name in ("planted", "length")
    )
    assert planted["value"] == pytest.approx(ACCURACY) and planted["low"] < ACCURACY < planted["high"]
    assert "spearman_within" not in metrics["models"]["planted"], "no prompt has three different engagements"
    entry = comparison(metrics, "planted", "length")
    assert entry["difference"] == pytest.approx(ACCURACY - length["value"])
    assert entry["primary"]["p_adjusted"] < 0.05
    assert metrics["statement"][0].startswith("planted beats length: 80.0% of pairs right")
    same = comparison(metrics, "as length", "length")
    assert (same["difference"], same["primary"]["p_value"], same["primary"]["p_adjusted"]) == (0.0, 1.0, 1.0)


def test_validation_adjusts_p_values_over_the_family(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert metrics["family"].startswith("8 tests: 2 models x 4 baselines")
    raw = min(entry["primary"]["p_value"] for entry in metrics["comparisons"])
    smallest = min(entry["primary"]["p_adjusted"] for entry in metrics["comparisons"])
    assert smallest == pytest.approx(min(1.0, 8 * raw))


def test_calibration_of_a_score_of_two_levels_is_fitted_on_the_validation_part(finished: Path) -> None:
    """Gaps are +-0.5 and the better one is ahead in 80 %, so the fitted confidence is 80 %."""
    (only,) = read_metrics(finished)["calibration"]["planted"]["bins"]
    assert only["confidence"] == pytest.approx(ACCURACY, abs=0.02)
    assert only["accuracy"] == pytest.approx(ACCURACY)


def test_slices_partition_the_pairs_and_name_the_worst(finished: Path) -> None:
    metrics = read_metrics(finished)
    with (finished / "runs/check/evaluation/slices.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["scorer"] == "planted"]
    for name in ("kind", "engagement gap", "which is longer", "year"):
        counts = [int(row["n_pairs"]) for row in rows if row["property"] == name]
        assert len(counts) >= 2 and sum(counts) == 100, name
    worst = metrics["worst_slices"]["planted"]
    large = [row for row in rows if row["by_outcome"] == "False" and int(row["n_pairs"]) >= 10]
    assert worst["value"] == pytest.approx(min(float(row["value"]) for row in large))
    assert any(f"'{worst['property']}: {worst['slice']}'" in line for line in metrics["statement"])


def test_mistakes_are_pairs_with_a_higher_score_for_the_worse_completion(finished: Path) -> None:
    mistakes = read_jsonl(finished / "runs/check/evaluation/mistakes.jsonl")
    planted = [line for line in mistakes if line["scorer"] == "planted"]
    assert len(planted) == 8
    for line in planted:
        assert line["engagement"][0] > line["engagement"][1] and line["score_gap"] == pytest.approx(-0.5)
        assert "<0.25>" in line["better"] and "<0.75>" in line["worse"]


def test_finished_validation_prints_its_paths_without_scoring(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = finished / "runs/check/report.html"
    page, written = report.read_text(encoding="utf-8"), report.stat().st_mtime_ns
    for name in ("accuracy", "reliability", "slices", "probes", "length"):
        assert f'id="figure-{name}"' in page
    assert "src=" not in page.partition("</script>")[2], "one copy of plotly.js, inline"
    assert main(["reward", str(finished / "config.yaml")]) == 0
    output = capsys.readouterr().out
    assert "planted beats length" in output and "slices.csv" in output
    for path in (finished / "runs/check", finished / "runs"):
        with pytest.raises(DataError, match=r"rewards .*report\.html"):
            load_report_data([path])
    assert report.stat().st_mtime_ns == written


def test_stopped_validation_reuses_stored_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "records.jsonl", records(100, ACCURACY))
    line = ["reward", str(write_config(tmp_path))]
    calls: list[int] = []
    scores = RandomScorer.scores

    def stops_once(self: RandomScorer, prompts: Any, completions: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return scores(self, prompts, completions)

    def stored() -> dict[str, bytes]:
        files = (tmp_path / "runs/check/evaluation/scores").iterdir()
        return {path.name: path.read_bytes() for path in files if not path.name.startswith("random")}

    monkeypatch.setattr(RandomScorer, "scores", stops_once)
    with pytest.raises(KeyboardInterrupt):
        main(line)
    kept = stored()
    assert len(kept) == 5 and all(kept.values())
    assert main(line) == 0
    assert stored() == kept
    assert main([*line, "name=whole"]) == 0
    assert read_metrics(tmp_path) == read_metrics(tmp_path, "whole")


def test_validation_of_preference_pairs_needs_no_records(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Prompt {n}?",
            "chosen": f"right {n} <{0.9 if n % 5 else 0.1}>",
            "rejected": f"no {n} <0.5>",
        }
        for n in range(50)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["reward", str(write_config(tmp_path, models={"planted": planted_reward(tmp_path)}))]) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["n_pairs"] == 40 and metrics["part"].startswith("80%"), "a fifth is for fitting"
    accuracy = metrics["models"]["planted"]["pairwise_accuracy"]["value"]["value"]
    assert accuracy * 40 == pytest.approx(round(accuracy * 40)) and abs(accuracy - 0.8) < 0.11


def test_validation_leaves_out_unscored_pairs_and_stops_above_the_limit(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", records(40, 1.0))
    config = write_config(
        tmp_path, models={"planted": planted_reward(tmp_path)}, probes={"num_completions": 0}
    )
    file = tmp_path / "planted.py"
    fails = "None if '2-1?' in item['prompt'] and ' 2 <' in item['completion'] else "
    changed = file.read_text().replace(
        "[float(match.group(1)) if match else 0.0 for match in found]",
        f"[{fails}float(match.group(1)) for item, match in zip(items, found)]",
    )
    assert fails in changed
    file.write_text(changed)
    assert main(["reward", str(config)]) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["scorers"]["planted"]["unscored"] == metrics["n_records_unscored"] == 2
    assert metrics["n_pairs"] == 39
    assert metrics["models"]["planted"]["pairwise_accuracy"]["value"]["value"] == 1.0
    with pytest.raises(RewardError, match="max_unscored_share=0"):
        main(["reward", str(config), "name=strict", "max_unscored_share=0"])
    (tmp_path / "runs/check/DONE").unlink()
    write_records(tmp_path / "records.jsonl", records(40, ACCURACY, seed=1))
    with pytest.raises(ConfigError, match=r"data .*changed"):
        main(["reward", str(config)])


def test_finished_validation_of_other_data_is_refused(finished: Path) -> None:
    data = finished / "records.jsonl"
    before = data.read_bytes()
    write_records(data, records(100, 1 - ACCURACY))
    try:
        with pytest.raises(ConfigError, match=r"the data has changed .*name="):
            main(["reward", str(finished / "config.yaml")])
    finally:
        data.write_bytes(before)
    assert main(["reward", str(finished / "config.yaml")]) == 0


def test_check_prints_sizes_and_creates_no_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", str(finished / "config.yaml"), "name=new", "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert (derived["n_pairs"], derived["scorers"], derived["tests_in_family"]) == (100, 6, 8)
    assert derived["scored_by_probes_per_model"] == 40 * 11
    with pytest.raises(MissingFile, match=r"absent\.jsonl"):
        main(["reward", str(finished / "config.yaml"), "data.path=absent.jsonl", "--check"])
    assert not (finished / "runs/new").exists()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("models={a: {type: engagement, path: nowhere/model}}", MissingFile, "nowhere/model"),
        ("models={length: {type: length}}", ConfigError, "'length' .*baseline"),
        ("models={a/b: {type: random}}", ConfigError, "'a/b'"),
        ("data.min_gap=50", DataError, "data.min_gap=50"),
        ("data.path=absent.jsonl", DataError, "absent.jsonl"),
        ("data.path=leaked.jsonl", DataError, r"'c0' .*train.*\s+test"),
        ("models={a: {type: lenght}}", ConfigError, "lenght"),
    ],
)
def test_mistake_is_named_and_leaves_the_name_free(
    finished: Path, override: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    first, *rest = records(8, ACCURACY)
    write_records(finished / "leaked.jsonl", [first.model_copy(update={"part": "train"}), *rest])
    with pytest.raises(error, match=message):
        main(["reward", "config.yaml", "name=other", override])
    assert not (finished / "runs/other").exists()
