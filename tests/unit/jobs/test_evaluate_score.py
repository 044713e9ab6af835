"""`polyray evaluate score --task`: samples of any tool against a file of problems, in the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.evaluate import main
from polyray.errors import ConfigError, DataError
from tests.data_sets import shared_data

ROOT = Path(__file__).resolve().parents[3]
PROBLEMS = [
    {
        "task_id": f"T/{number}",
        "prompt": f'def add(x):\n    """x + {number}"""\n',
        "entry_point": "add",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(f):\n    assert f(1) == {1 + number}\n",
    }
    for number in range(3)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def right(number: int) -> dict[str, Any]:
    return {"task_id": f"T/{number}", "completion": f"    return x + {number}\n"}


def wrong(number: int) -> dict[str, Any]:
    return {"task_id": f"T/{number}", "completion": "    return None\n"}


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write(tmp_path / "problems.jsonl", PROBLEMS)


def score(samples: Path, problems: Path, out: Path, *options: str) -> dict[str, Any]:
    line = ["score", str(samples), "--task", "code", "--problems", str(problems), "--out", str(out)]
    assert main([*line, "--allow-code-execution", "--workers", "2", "--resamples", "100", *options]) == 0
    return json.loads((out / "metrics.json").read_text())


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_score_keeps_the_order_of_samples_and_is_repeated_from_rewards(
    tmp_path: Path, problems: Path
) -> None:
    rows = [right(1), wrong(0), wrong(1), right(0), right(1), {"task_id": "T/0", "completion": "    1 +\n"}]
    metrics = score(write(tmp_path / "s.jsonl", rows), problems, tmp_path / "out")
    found = results(tmp_path / "out")
    assert [(row["task_id"], row["sample_index"], row["passed"]) for row in found] == [
        ("T/1", 0, True), ("T/0", 0, False), ("T/1", 1, False),
        ("T/0", 1, True), ("T/1", 2, True), ("T/0", 2, False),
    ]  # fmt: skip
    assert {row["verdict"] for row in found} == {"passed", "failed"}
    assert found[1]["message"].startswith("AssertionError") and found[5]["message"].startswith("SyntaxError")
    assert all(row["isolation"] != "none" and row["wall_s"] > 0 for row in found)
    values = metrics["models"]["model"]["pass_at_k"]
    assert set(values) == {"1", "3"}, "n = 3 allows k = 1 and 3"
    assert values["1"]["value"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert (metrics["n_problems"], metrics["n_missing"], metrics["selector"]) == (2, 1, "first")
    again = tmp_path / "again.json"
    line = ["score", str(tmp_path / "out" / "samples.jsonl"), "--ks", "1,3", "--selector", "first"]
    assert main([*line, "--resamples", "100", "--out", str(again)]) == 0
    scored_again = json.loads(again.read_text())
    assert all(scored_again[key] == metrics[key] for key in ("models", "dataset_sha256", "n_problems"))


def test_score_of_the_human_eval_sanity_pair_is_one_half(tmp_path: Path) -> None:
    samples, file = shared_data("code/example_samples.jsonl"), shared_data("code/example_problem.jsonl")
    metrics = score(samples, file, tmp_path / "out")
    assert metrics["models"]["model"]["pass_at_k"]["1"]["value"] == 0.5
    assert [row["verdict"] for row in results(tmp_path / "out")].count("timeout") == 1


def test_killed_score_resumes_to_the_same_results(tmp_path: Path, problems: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [row(i % 3) for i in range(40) for row in (right, wrong)])
    score(samples, problems, tmp_path / "whole")
    line = [sys.executable, "-c", KILLED_AFTER_TEN, "score", str(samples), "--task", "code"]
    line += ["--problems", str(problems), "--out", str(tmp_path / "out"), "--allow-code-execution"]
    killed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert 10 <= len(results(tmp_path / "out")) < 80
    assert score(samples, problems, tmp_path / "out") == score(samples, problems, tmp_path / "whole")
    assert (tmp_path / "out/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()
    keys = ("task_id", "sample_index", "passed", "verdict", "message")
    both = [
        [tuple(row[key] for key in keys) for row in results(tmp_path / name)] for name in ("out", "whole")
    ]
    assert both[0] == both[1]


KILLED_AFTER_TEN = """
import os, signal
from polyray.cli import evaluate_score
evaluate_score.print_progress = lambda done: os.kill(os.getpid(), signal.SIGKILL) if done == 10 else None
from jobs.evaluate import main
main()
"""


def test_score_never_overwrites_results_of_other_inputs(tmp_path: Path, problems: Path) -> None:
    first = write(tmp_path / "a.jsonl", [right(0)])
    second = write(tmp_path / "b.jsonl", [wrong(0)])
    score(first, problems, tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"out.* samples"):
        score(second, problems, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"out.* settings"):
        score(first, problems, tmp_path / "out", "--timeout", "9")
    problems.write_text(problems.read_text().replace("assert", "assert True or"))
    with pytest.raises(ConfigError, match=r"out.* problems"):
        score(first, problems, tmp_path / "out")
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.jsonl").write_text("precious\n")
    with pytest.raises(ConfigError, match=r"mine.*`score`"):
        score(first, problems, tmp_path / "mine")


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([right(0), {"task_id": "T/9", "completion": ""}], r"s\.jsonl:2: task_id 'T/9' .*3 problems"),
        ([{"completion": "x"}], r"s\.jsonl:1: 'task_id' .*'completion' .*'solution'"),
        ([right(0) | {"sample_index": 4}] * 2, r"s\.jsonl:2: sample 4 of T/0 .* twice"),
        ([right(0) | {"prompt_sha256": "ab" * 32}], r"s\.jsonl:1: 'T/0' .*prompt"),
        ([right(0), wrong(0), right(1)], r"T/1 .*1 scored samples of model .*k=2"),
        ([right(0), "torn"], r"s\.jsonl:2: .*"),
    ],
)
def test_score_names_samples_that_do_not_fit(
    tmp_path: Path, problems: Path, rows: list[Any], error: str
) -> None:
    with pytest.raises(DataError, match=error):
        score(write(tmp_path / "s.jsonl", rows), problems, tmp_path / "out", "--ks", "1,2")


def test_score_runs_programs_only_with_consent_and_complete_options(tmp_path: Path, problems: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [right(0)])
    task, file = ["--task", "code"], ["--problems", str(problems)]
    out = ["--out", str(tmp_path / "out")]
    for options, message in (
        ([*task, *file, *out], "--allow-code-execution"),
        ([*task, *file], r"--out .*results\.jsonl"),
        ([*task, "--problems", "nowhere.jsonl", *out], r"--problems .*nowhere\.jsonl"),
        (file, r"--problems .*--task"),
        (["--set", "metric=f1"], r"--set .*--task"),
        (["--allow-code-execution"], r"--allow-code-execution .*--task"),
        ([*task, *file, *out, "--allow-self-selection"], r"--allow-self-selection .*--task"),
    ):
        with pytest.raises(ConfigError, match=message):
            main(["score", str(samples), *options])
    assert not (tmp_path / "out").exists()


def test_threshold_makes_graded_answers_pass(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.jsonl", [{"id": "q", "question": "Who?", "answer": ["Ada Lovelace"]}])
    samples = write(tmp_path / "s.jsonl", [{"task_id": "q", "completion": "Ada"}] * 2)
    line = ["score", str(samples), "--task", "question_answering", "--problems", str(questions)]
    for out, options, passed in (("strict", [], False), ("half", ["--pass-threshold", "0.5"], True)):
        assert main([*line, "--set", "metric=f1", "--out", str(tmp_path / out), *options]) == 0
        metrics = json.loads((tmp_path / out / "metrics.json").read_text())
        (model,) = metrics["models"].values()
        assert (model["pass_at_k"]["1"]["value"], metrics["pass_threshold"]) == (
            passed,
            pytest.approx(0.5 if passed else 1.0),
        )
        assert [row["passed"] for row in results(tmp_path / out)] == [passed, passed]
    with pytest.raises(ConfigError, match="other settings"):
        main([*line, "--set", "metric=f1", "--out", str(tmp_path / "half")])
