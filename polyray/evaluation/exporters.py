"""An evaluation's samples in the formats of other tools, one directory per model.

    human-eval     samples.jsonl {task_id, completion}; samples.jsonl_results.jsonl {+ result, passed}
    evalplus       samples.jsonl {task_id, solution}; samples.eval_results.json

Both are for code: completions are cut at the stop words as they were when they were judged, so that the
tools' own evaluators come to the same verdicts. Called by pipeline.py and problem_scoring.py.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from polyray.errors import ConfigError
from polyray.evaluation.raw_samples import FORM
from polyray.evaluation.records import SampleRecord, json_line
from polyray.evaluation.sample_source import SampleSource
from polyray.metrics.pass_at_k import pass_at_k
from polyray.runs.atomic import atomic_write_json, atomic_write_text
from polyray.tasks.base import Task
from polyray.types import Prompt


@runtime_checkable
class CodeText(Protocol):
    """A task with programs as completions."""

    def cut(self, prompt: Prompt, completion: str) -> str:
        """The completion up to its stop words."""
        ...

    def judged_text(self, prompt: Prompt, completion: str) -> str:
        """The part of a completion that samples.jsonl keeps."""
        ...

    def source(self, prompt: Prompt, completion: str) -> str:
        """The program of a completion."""
        ...

    def prompt_of(self, task_id: str) -> Prompt:
        """The prompt of a problem."""
        ...


@dataclass(frozen=True, slots=True)
class ProgramVerdict:
    """Verdict about one sample, e.g. ProgramVerdict(passed=False, verdict="timeout", message="after 3 s")."""

    passed: bool
    verdict: str
    message: str


Verdicts = Mapping[tuple[str, str, int], ProgramVerdict]
"""(model, task_id, sample_index) -> verdict."""


def read_verdicts(results: Path) -> dict[tuple[str, str, int], ProgramVerdict]:
    """The rows of a results.jsonl."""
    found: dict[tuple[str, str, int], ProgramVerdict] = {}
    with results.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            key = (row["model"], row["task_id"], row["sample_index"])
            found[key] = ProgramVerdict(row["passed"], row["verdict"], row["message"])
    return found


def export_samples(
    names: Iterable[str], source: SampleSource, verdicts: Verdicts, task: Task, directory: Path
) -> list[Path]:
    """Writes every model in every named format below `directory`; returns the directories.

    Raises ConfigError for a format that does not fit the task.
    """
    written: list[Path] = []
    folders = _folders(source.models)
    for name in names:
        export = EXPORTS[name]
        for model, folder in folders.items():
            target = directory / name / folder
            target.mkdir(parents=True, exist_ok=True)
            export(_groups(source, model), verdicts, task, target)
            written.append(target)
    return written


Groups = Iterator[Sequence[SampleRecord]]


def _groups(source: SampleSource, model: str) -> Groups:
    return (source.group(model, task_id) for task_id in source.task_ids(model))


def _human_eval(groups: Groups, verdicts: Verdicts, task: Task, target: Path) -> None:
    code = _code_task(task, "human-eval")
    completions: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []
    for samples in groups:
        for sample in samples:
            completion = _cut(code, sample)
            completions.append({"task_id": sample.task_id, "completion": completion})
            if math.isnan(sample.reward):  # the sandbox failed, not the program
                continue
            verdict = verdicts[sample.model, sample.task_id, sample.sample_index]
            rows.append({**completions[-1], "result": _result_text(verdict), "passed": verdict.passed})
    _write_rows(target / "samples.jsonl", completions)
    _write_rows(target / "samples.jsonl_results.jsonl", rows)


def _cut(code: CodeText, sample: SampleRecord) -> str:
    if sample.sampling.get(FORM) == "solution":
        return sample.completion
    return code.cut(code.prompt_of(sample.task_id), sample.completion)


def _source(code: CodeText, sample: SampleRecord) -> str:
    if sample.sampling.get(FORM) == "solution":
        return sample.completion
    return code.source(code.prompt_of(sample.task_id), sample.completion)


def _result_text(verdict: ProgramVerdict) -> str:
    if verdict.passed:
        return "passed"
    return "timed out" if verdict.verdict == "timeout" else f"failed: {verdict.message or verdict.verdict}"


def _evalplus(groups: Groups, verdicts: Verdicts, task: Task, target: Path) -> None:
    """`base_status` is null where a plus data set's sample failed: its tests were run together."""
    code = _code_task(task, "evalplus")
    solutions: list[dict[str, str]] = []
    judged: dict[str, list[dict[str, Any]]] = {}
    for samples in groups:
        for sample in samples:
            solution = _source(code, sample)
            solutions.append({"task_id": sample.task_id, "solution": solution})
            if math.isnan(sample.reward):
                continue
            verdict = verdicts[sample.model, sample.task_id, sample.sample_index]
            status = "pass" if verdict.passed else "timeout" if verdict.verdict == "timeout" else "fail"
            judged.setdefault(sample.task_id, []).append(
                {
                    **solutions[-1],
                    "base_status": "pass" if verdict.passed else None,
                    "plus_status": status,
                    "base_fail_tests": [],
                    "plus_fail_tests": [],
                }
            )
    _write_rows(target / "samples.jsonl", solutions)
    counts = [(len(rows), sum(row["plus_status"] == "pass" for row in rows)) for rows in judged.values()]
    fewest = min((total for total, _ in counts), default=0)
    plus = {
        f"pass@{k}": float(np.mean([pass_at_k(total, correct, k) for total, correct in counts]))
        for k in (1, 10, 100)
        if k <= fewest
    }
    atomic_write_json(
        target / "samples.eval_results.json",
        {"date": None, "hash": None, "eval": judged, "pass_at_k": {"plus": plus}},
    )


Export = Callable[[Groups, Verdicts, Task, Path], None]
EXPORTS: dict[str, Export] = {
    "human-eval": _human_eval,
    "evalplus": _evalplus,
}


def _code_task(task: Task, name: str) -> CodeText:
    if not isinstance(task, CodeText):
        raise ConfigError(
            f"export {name!r} is a format for programs, but the task is {task.name}; leave it out"
        )
    return task


def _folders(models: Iterable[str]) -> dict[str, str]:
    """Model -> name of its directory; equal ones get a number."""
    folders: dict[str, str] = {}
    for model in models:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        folders[model] = (
            name
            if name not in folders.values()
            else next(free for free in numbered if free not in folders.values())
        )
    return folders


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    atomic_write_text(path, "".join(map(json_line, rows)))
