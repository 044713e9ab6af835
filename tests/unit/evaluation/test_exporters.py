"""Exported samples get the same verdicts by HumanEval's published semantics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec, HiddenTrapGridSpec
from polyray.errors import ConfigError
from polyray.evaluation.exporters import ProgramVerdict, export_samples
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.sample_source import SampleList
from polyray.tasks.code import CodeTask
from polyray.tasks.hidden_trap_grid import HiddenTrapGrid

PROBLEMS = [
    {
        "task_id": f"T/{number}",
        "prompt": f'def add(x):\n    """x + {number}"""\n',
        "entry_point": "add",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(f):\n    assert f(1) == {1 + number}\n",
    }
    for number in range(2)
]
COMPLETIONS = {
    "T/0": ["    return x + 0\n", "    return x\n\ndef late():\n    raise SystemExit\n", "    return 7\n"],
    "T/1": ["    return 1 + x\n", "    return None\n", "    while True: pass\n"],
}
PASSED = {("T/0", 0), ("T/0", 1), ("T/1", 0)}


@pytest.fixture
def task(tmp_path: Path) -> CodeTask:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return CodeTask(CodeSpec(path=str(path), held_out="all"))


@pytest.fixture
def directory(task: CodeTask, tmp_path: Path) -> Path:
    records, verdicts = [], {}
    for task_id, texts in COMPLETIONS.items():
        for index, text in enumerate(texts):
            passed = (task_id, index) in PASSED
            hang = "while" in text
            record = SampleRecord(task_id, text, index, model="my model", reward=float(passed), prompt="p")
            records.append(record)
            verdict = "passed" if passed else "timeout" if hang else "failed"
            message = "" if passed else "AssertionError"
            verdicts["my model", task_id, index] = ProgramVerdict(passed, verdict, message)
    names = ("human-eval", "evalplus")
    written = export_samples(names, SampleList(records), verdicts, task, tmp_path / "export")
    assert written == [tmp_path / "export" / name / "my-model" for name in names]
    return tmp_path / "export"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_human_eval_export_has_cut_completions_and_results(directory: Path) -> None:
    """test_human_eval_agreement.py compares the verdicts with those of HumanEval's own evaluator."""
    judged = rows(directory / "human-eval/my-model/samples.jsonl_results.jsonl")
    samples = rows(directory / "human-eval/my-model/samples.jsonl")
    assert [row["completion"] for row in samples] == [row["completion"] for row in judged]
    assert [(row["task_id"], row["passed"], row["result"]) for row in judged] == [
        ("T/0", True, "passed"),
        ("T/0", True, "passed"),
        ("T/0", False, "failed: AssertionError"),
        ("T/1", True, "passed"),
        ("T/1", False, "failed: AssertionError"),
        ("T/1", False, "timed out"),
    ]
    assert judged[1]["completion"] == "    return x\n", "cut at the stop word, as it was when it was judged"


def test_evalplus_export_has_whole_programs_and_statuses(directory: Path) -> None:
    samples = rows(directory / "evalplus/my-model/samples.jsonl")
    assert samples[0]["solution"] == PROBLEMS[0]["prompt"] + "    return x + 0\n"
    judged = json.loads((directory / "evalplus/my-model/samples.eval_results.json").read_text())
    assert [row["plus_status"] for row in judged["eval"]["T/1"]] == ["pass", "fail", "timeout"]
    assert judged["pass_at_k"]["plus"] == {"pass@1": pytest.approx((2 / 3 + 1 / 3) / 2)}


def test_samples_that_the_sandbox_could_not_judge_are_neither_right_nor_wrong(
    task: CodeTask, tmp_path: Path
) -> None:
    records, verdicts = [], {}
    for model in ("few shot", "few-shot"):
        for index, verdict in enumerate(("passed", "sandbox_error", "failed")):
            reward = {"passed": 1.0, "failed": 0.0}.get(verdict, math.nan)
            text = "    return x\n"
            records.append(SampleRecord("T/0", text, index, model=model, reward=reward, prompt="p"))
            verdicts[model, "T/0", index] = ProgramVerdict(verdict == "passed", verdict, "")
    names = ("human-eval", "evalplus")
    written = export_samples(names, SampleList(records), verdicts, task, tmp_path / "export")
    assert [path.name for path in written] == ["few-shot", "few-shot-2"] * 2
    human_eval, evalplus = written[0], written[2]
    assert len(rows(human_eval / "samples.jsonl")) == 3
    assert [row["passed"] for row in rows(human_eval / "samples.jsonl_results.jsonl")] == [True, False]
    judged = json.loads((evalplus / "samples.eval_results.json").read_text())
    assert [row["plus_status"] for row in judged["eval"]["T/0"]] == ["pass", "fail"]
    assert judged["pass_at_k"]["plus"] == {"pass@1": 0.5}


def test_export_of_programs_is_refused_for_another_task(tmp_path: Path) -> None:
    grid = HiddenTrapGrid(HiddenTrapGridSpec())
    with pytest.raises(ConfigError, match="export 'evalplus' is a format for programs, but the task is"):
        export_samples(["evalplus"], SampleList([SampleRecord("a", "x", 0)]), {}, grid, tmp_path)
