"""An evaluation's samples in the formats of other tools, one directory per model.

    human-eval     samples.jsonl {task_id, completion}; samples.jsonl_results.jsonl {+ result, passed}
    evalplus       samples.jsonl {task_id, solution}; samples.eval_results.json
    bigcode        generations.json: programs, a list per problem in the order of the problems
    noveltybench   generations.jsonl, partitions.jsonl, scores.jsonl, summary.json

The first three are for code: completions are cut at the stop words as they were when they were judged, so that the
tools' own evaluators come to the same verdicts. Called by pipeline.py and problem_scoring.py.
"""

from __future__ import annotations

import json
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
from polyray.metrics.novelty import PATIENCE, greedy_partition, unigram_equivalent, utility_k
from polyray.metrics.pass_at_k import pass_at_k
from polyray.runs.atomic import atomic_write_json, atomic_write_text
from polyray.tasks.base import Task
from polyray.types import Prompt

BEST_UTILITY = 10.0
"""NoveltyBench's scores reach from 1 to 10; ours are rewards in [0, 1], written as 1 + 9 x reward."""


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
class Verdict:
    """Verdict about one sample, e.g. Verdict(passed=False, verdict="timeout", message="not done after 3 s")."""

    passed: bool
    verdict: str
    message: str


Verdicts = Mapping[tuple[str, str, int], Verdict]
"""(model, task_id, sample_index) -> verdict."""


def read_verdicts(results: Path) -> dict[tuple[str, str, int], Verdict]:
    """The rows of a results.jsonl."""
    found: dict[tuple[str, str, int], Verdict] = {}
    with results.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            key = (row["model"], row["task_id"], row["sample_index"])
            found[key] = Verdict(row["passed"], row["verdict"], row["message"])
    return found


def export_samples(
    names: Iterable[str], source: SampleSource, verdicts: Verdicts, task: Task, directory: Path
) -> list[Path]:
    """Writes every model in every named format below `directory`; returns the directories.

    Raises ConfigError for a format that does not fit the task.
    """
    written: list[Path] = []
    for name in names:
        export = EXPORTS[name]
        for model in source.models:
            target = directory / name / _file_name(model)
            target.mkdir(parents=True, exist_ok=True)
            export(_groups(source, model), verdicts, task, target)
            written.append(target)
    return written


Groups = Iterator[Sequence[SampleRecord]]


def _groups(source: SampleSource, model: str) -> Groups:
    return (source.group(model, task_id) for task_id in source.task_ids(model))


def _human_eval(groups: Groups, verdicts: Verdicts, task: Task, target: Path) -> None:
    code = _code_task(task, "human-eval")
    rows: list[dict[str, Any]] = []
    for samples in groups:
        for sample in samples:
            completion = _cut(code, sample)
            verdict = verdicts[sample.model, sample.task_id, sample.sample_index]
            rows.append(
                {
                    "task_id": sample.task_id,
                    "completion": completion,
                    "result": _result_text(verdict),
                    "passed": verdict.passed,
                }
            )
    _write_rows(
        target / "samples.jsonl", [{key: row[key] for key in ("task_id", "completion")} for row in rows]
    )
    _write_rows(target / "samples.jsonl_results.jsonl", rows)


def _cut(code: CodeText, sample: SampleRecord) -> str:
    if sample.sampling.get(FORM) == "solution":
        return sample.completion
    return code.cut(code.prompt_of(sample.task_id), sample.completion)


def _source(code: CodeText, sample: SampleRecord) -> str:
    if sample.sampling.get(FORM) == "solution":
        return sample.completion
    return code.source(code.prompt_of(sample.task_id), sample.completion)


def _result_text(verdict: Verdict) -> str:
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
    fewest = min(total for total, _ in counts)
    plus = {
        f"pass@{k}": float(np.mean([pass_at_k(total, correct, k) for total, correct in counts]))
        for k in (1, 10, 100)
        if k <= fewest
    }
    atomic_write_json(
        target / "samples.eval_results.json",
        {"date": None, "hash": None, "eval": judged, "pass_at_k": {"plus": plus}},
    )


def _bigcode(groups: Groups, verdicts: Verdicts, task: Task, target: Path) -> None:
    code = _code_task(task, "bigcode")
    programs = [[_source(code, sample) for sample in samples] for samples in groups]
    atomic_write_json(target / "generations.json", programs)


def _noveltybench(groups: Groups, verdicts: Verdicts, task: Task, target: Path) -> None:
    """Classes by the benchmark's rule that needs no model; scores are rewards, not those of its reward model."""
    rows = [_novelty_row(samples) for samples in groups]
    kept = {
        "generations.jsonl": ("id", "prompt", "model", "generations"),
        "partitions.jsonl": ("id", "prompt", "model", "generations", "partition", "distinct"),
        "scores.jsonl": tuple(rows[0]),
    }
    for name, keys in kept.items():
        _write_rows(target / name, [{key: row[key] for key in keys} for row in rows])
    summary = {
        "mean_distinct": float(np.mean([len(row["partition_scores"]) for row in rows])),
        "mean_utility": float(np.mean([row["utility"] for row in rows])),
    }
    atomic_write_json(target / "summary.json", summary)


def _novelty_row(samples: Sequence[SampleRecord]) -> dict[str, Any]:
    texts = [sample.completion for sample in samples]
    partition = greedy_partition(texts, unigram_equivalent)
    # An unscored sample is worth nothing, as the benchmark treats what its reward model cannot score.
    rewards = [0.0 if sample.reward != sample.reward else sample.reward for sample in samples]
    scores = [1.0 + (BEST_UTILITY - 1.0) * reward for reward in rewards]
    first = [partition.index(class_id) == at for at, class_id in enumerate(partition)]
    return {
        "id": samples[0].task_id,
        "prompt": samples[0].prompt,
        "model": samples[0].model,
        "generations": texts,
        "partition": partition,
        "distinct": max(partition),  # the benchmark's own: one less than the number of classes
        "generation_scores": [score if is_new else 0.0 for score, is_new in zip(scores, first, strict=True)],
        "partition_scores": [score for score, is_new in zip(scores, first, strict=True) if is_new],
        "utility": float(utility_k(partition, scores, PATIENCE)),
    }


Export = Callable[[Groups, Verdicts, Task, Path], None]
EXPORTS: dict[str, Export] = {
    "human-eval": _human_eval,
    "evalplus": _evalplus,
    "bigcode": _bigcode,
    "noveltybench": _noveltybench,
}


def _code_task(task: Task, name: str) -> CodeText:
    if not isinstance(task, CodeText):
        raise ConfigError(
            f"export {name!r} is a format for programs, but the task is {task.name}; use noveltybench, or none"
        )
    return task


def _file_name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    atomic_write_text(path, "".join(map(json_line, rows)))
