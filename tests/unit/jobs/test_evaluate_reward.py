"""jobs.evaluate reward end to end: a planted scorer, a scorer that is length, resuming, mistakes of the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyray.cli.evaluate import main
from polyray.errors import ConfigError, DataError, MissingFile, RewardError
from polyray.report.run_data import load_report_data
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


def test_the_planted_accuracy_is_reported(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert (metrics["n_pairs"], metrics["n_clusters"], metrics["n_samples"]) == (100, 50, 200)
    found = metrics["models"]["planted"]["pairwise_accuracy"]["value"]
    assert found["value"] == pytest.approx(ACCURACY) and found["low"] < ACCURACY < found["high"]
    assert metrics["models"]["planted"]["pairwise_accuracy_by_prompt"]["value"]["value"] == pytest.approx(
        ACCURACY
    )
    assert "spearman_within" not in metrics["models"]["planted"], "no prompt has three different engagements"


def test_planted_scorer_beats_length_in_metrics_and_statement(finished: Path) -> None:
    metrics = read_metrics(finished)
    entry = comparison(metrics, "planted", "length")
    assert entry["difference"] == pytest.approx(
        ACCURACY - metrics["models"]["length"]["pairwise_accuracy"]["value"]["value"]
    )
    assert entry["primary"]["p_adjusted"] < 0.05
    assert metrics["statement"][0].startswith("planted beats length: 80.0% of pairs right")
    assert "(100 pairs in 50 clusters" in metrics["statement"][0]


def test_renamed_length_scorer_equals_length(finished: Path) -> None:
    metrics = read_metrics(finished)
    entry = comparison(metrics, "as length", "length")
    assert (entry["difference"], entry["primary"]["p_value"], entry["primary"]["p_adjusted"]) == (
        0.0,
        1.0,
        1.0,
    )
    line = next(line for line in metrics["statement"] if line.startswith("as length does the same as length"))
    assert "not significant" in line
    assert metrics["models"]["as length"]["length_spearman"]["value"]["value"] == pytest.approx(
        1.0 if "longer" in metrics["scorers"]["length"]["note"] else -1.0
    )


def test_the_family_is_stated_and_adjusted_together(finished: Path) -> None:
    metrics = read_metrics(finished)
    assert metrics["family"].startswith("8 tests: 2 models x 4 baselines")
    raw = sorted(entry["primary"]["p_value"] for entry in metrics["comparisons"])
    smallest = min(entry["primary"]["p_adjusted"] for entry in metrics["comparisons"])
    assert smallest == pytest.approx(min(1.0, 8 * raw[0]))


def test_a_score_of_two_levels_gets_its_scale_from_the_validation_part(finished: Path) -> None:
    """Gaps are +-0.5 with the better one ahead in 80 %: the fitted scale must say 80 %, and be right."""
    metrics = read_metrics(finished)
    (only,) = metrics["calibration"]["planted"]["bins"]
    assert only["confidence"] == pytest.approx(ACCURACY, abs=0.02)
    assert only["accuracy"] == pytest.approx(ACCURACY)


def test_slices_partition_the_pairs_and_the_worst_is_named(finished: Path) -> None:
    metrics = read_metrics(finished)
    lines = (finished / "runs/check/evaluation/slices.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "property,slice,by_outcome,scorer,n_pairs,n_clusters,value,low,high"
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    for name in ("kind", "engagement gap", "which is longer", "year"):
        of_planted = [row for row in rows if row["property"] == name and row["scorer"] == "planted"]
        assert len(of_planted) >= 2 and sum(int(row["n_pairs"]) for row in of_planted) == 100, name
    worst = metrics["worst_slices"]["planted"]
    candidates = [
        float(row["value"]) for row in rows
        if row["scorer"] == "planted" and row["by_outcome"] == "False" and int(row["n_pairs"]) >= 10
    ]  # fmt: skip
    assert worst["value"] == pytest.approx(min(candidates))
    assert any(f"'{worst['property']}: {worst['slice']}'" in line for line in metrics["statement"])


def test_probes_tell_a_scorer_that_can_be_fooled(finished: Path) -> None:
    """The planted score reads the number at the end of the text: repeating changes nothing, emptying ruins it."""
    probes = read_metrics(finished)["probes"]
    assert probes["planted"]["padded_filler"]["value"] == 0.0
    assert probes["planted"]["empty"]["value"] == 0.0 and probes["planted"]["empty"]["shift"] < -1
    assert probes["planted"]["empty"]["verdict"] == "pass"
    length = probes["as length"]
    fooled, unmoved = ("padded_filler", "truncated")
    if "shorter" in read_metrics(finished)["scorers"]["length"]["note"]:
        fooled, unmoved = unmoved, fooled
    assert (length[fooled]["value"], length[fooled]["verdict"]) == (1.0, "warn")
    assert length[unmoved]["value"] == 0.0
    assert length["uppercase"]["value"] == length["words_shuffled"]["value"] == 0.0


def test_page_has_every_figure_and_loads_no_script(finished: Path) -> None:
    page = (finished / "runs/check/report.html").read_text(encoding="utf-8")
    assert "planted beats length" in page and "8 tests: 2 models x 4 baselines" in page
    for name in ("accuracy", "reliability", "slices", "probes", "length"):
        assert f'id="figure-{name}"' in page
    assert "src=" not in page.partition("</script>")[2], "one copy of plotly.js, inline"


def test_mistakes_are_pairs_with_a_higher_score_for_the_worse_completion(finished: Path) -> None:
    lines = (finished / "runs/check/evaluation/mistakes.jsonl").read_text(encoding="utf-8").splitlines()
    mistakes = [json.loads(line) for line in lines]
    planted = [line for line in mistakes if line["scorer"] == "planted"]
    assert len(planted) == 8
    for line in planted:
        assert line["engagement"][0] > line["engagement"][1] and line["score_gap"] == pytest.approx(-0.5)
        assert "<0.25>" in line["better"] and "<0.75>" in line["worse"]


def test_finished_run_prints_its_paths_without_scoring(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "runs/check/report.html").stat().st_mtime_ns
    assert main(["reward", str(finished / "config.yaml")]) == 0
    output = capsys.readouterr().out
    assert "planted beats length" in output and "slices.csv" in output
    assert (finished / "runs/check/report.html").stat().st_mtime_ns == before


def test_stopped_run_reuses_stored_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "records.jsonl", records(100, ACCURACY))
    line = ["reward", str(write_config(tmp_path))]
    calls: list[int] = []
    scores = RandomScorer.scores

    def stops_once(self: RandomScorer, prompts: Any, completions: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return scores(self, prompts, completions)

    monkeypatch.setattr(RandomScorer, "scores", stops_once)
    with pytest.raises(KeyboardInterrupt):
        main(line)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "runs/check/evaluation/scores").iterdir()}
    assert len(kept) == 6 and all(content for name, content in kept.items() if not name.startswith("random"))
    assert main(line) == 0
    for path in (tmp_path / "runs/check/evaluation/scores").iterdir():
        if not path.name.startswith("random"):
            assert path.read_bytes() == kept[path.name], "nothing was scored twice"
    assert main([*line, "name=whole"]) == 0
    assert read_metrics(tmp_path) == read_metrics(tmp_path, "whole")


def test_other_data_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "records.jsonl", records(40, ACCURACY))
    config = write_config(tmp_path)
    assert main(["reward", str(config), "probes.num_completions=0"]) == 0
    (tmp_path / "runs/check/DONE").unlink()
    write_records(tmp_path / "records.jsonl", records(40, ACCURACY, seed=1))
    with pytest.raises(ConfigError, match=r"data .*changed"):
        main(["reward", str(config), "probes.num_completions=0"])


def test_check_prints_sizes_and_creates_no_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", str(finished / "config.yaml"), "name=new", "--check"]) == 0
    derived = json.loads(capsys.readouterr().out)["derived"]
    assert (derived["n_pairs"], derived["scorers"], derived["tests_in_family"]) == (100, 6, 8)
    assert derived["scored_by_probes_per_model"] == 40 * 11
    assert not (finished / "runs/new").exists()
    with pytest.raises(MissingFile, match=r"absent\.jsonl"):
        main(["reward", str(finished / "config.yaml"), "data.path=absent.jsonl", "--check"])
    assert json.loads(capsys.readouterr().out)["config"]["data"]["path"].endswith("/absent.jsonl")


def test_preference_pairs_are_validated_without_records(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Prompt {n}?",
            "chosen": f"right {n} <{0.9 if n % 5 else 0.1}>",
            "rejected": f"no {n} <0.5>",
        }
        for n in range(50)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = write_config(tmp_path, models={"planted": planted_reward(tmp_path)})
    assert main(["reward", str(config)]) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["n_pairs"] == 40 and metrics["part"].startswith("80%"), "a fifth is for fitting"
    hits = [row for row in rows if "<0.9>" in row["chosen"]]
    accuracy = metrics["models"]["planted"]["pairwise_accuracy"]["value"]["value"]
    assert accuracy * 40 == pytest.approx(round(accuracy * 40)) and abs(accuracy - len(hits) / 50) < 0.11
    assert "length" in metrics["models"]


def test_unscored_is_never_zero_and_stops_the_run_above_the_limit(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", records(40, 1.0))
    planted = planted_reward(tmp_path)
    config = write_config(tmp_path, models={"planted": planted}, probes={"num_completions": 0})
    file = tmp_path / "planted.py"
    every = "[float(match.group(1)) if match else 0.0 for match in found]"
    assert every in file.read_text()
    file.write_text(
        file.read_text().replace(
            every,
            "[None if '2-1?' in item['prompt'] and ' 2 <' in item['completion'] else float(match.group(1))"
            " for item, match in zip(items, found)]",
        )
    )
    assert main(["reward", str(config)]) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["scorers"]["planted"]["unscored"] == metrics["n_records_unscored"] == 2
    assert metrics["n_pairs"] == 39
    assert metrics["models"]["planted"]["pairwise_accuracy"]["value"]["value"] == 1.0
    with pytest.raises(RewardError, match="max_unscored_share=0"):
        main(["reward", str(config), "name=strict", "max_unscored_share=0"])


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("models={a: {type: engagement, path: nowhere/model}}", MissingFile, "nowhere/model"),
        ("models={length: {type: length}}", ConfigError, "'length' .*baseline"),
        ("models={a/b: {type: random}}", ConfigError, "'a/b'"),
        ("data.min_gap=50", DataError, "data.min_gap=50"),
        ("data.path=absent.jsonl", DataError, "absent.jsonl"),
        ("models={a: {type: lenght}}", ConfigError, "lenght"),
    ],
)
def test_mistakes_of_the_user_are_named(
    finished: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main(["reward", str(finished / "config.yaml"), "name=other", override])


def test_report_of_models_refuses_a_validation_of_rewards(finished: Path) -> None:
    page = (finished / "runs/check/report.html").read_bytes()
    for path in (finished / "runs/check", finished / "runs"):
        with pytest.raises(DataError, match=r"rewards .*report\.html"):
            load_report_data([path])
    assert (finished / "runs/check/report.html").read_bytes() == page


def test_a_cluster_in_two_parts_is_refused(tmp_path: Path) -> None:
    rows = records(8, ACCURACY)
    leaked = rows[0].model_copy(update={"part": "train"})
    write_records(tmp_path / "records.jsonl", [leaked, *rows[1:]])
    with pytest.raises(DataError, match=r"'c0' .*train.*\s+test"):
        main(["reward", str(write_config(tmp_path))])


def test_a_wrong_path_leaves_the_name_free(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with pytest.raises(DataError, match=r"records\.jsonl"):
        main(["reward", str(config)])
    write_records(tmp_path / "records.jsonl", records(20, ACCURACY))
    absent = {"m": {"type": "engagement", "path": str(tmp_path / "nowhere")}}
    with pytest.raises(MissingFile, match="/nowhere"):
        main(["reward", str(write_config(tmp_path, models=absent))])
    assert not (tmp_path / "runs").exists()
