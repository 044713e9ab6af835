"""The same prompts, all arms, side by side: the candidates a user would be shown.

Prompts are taken evenly from the list of held-out prompts, never by outcome. For the hidden-trap grid every
cell has a board. Without an evaluation, groups from the course of training are shown. Called by report.py.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyray.config.task import HiddenTrapGridSpec
from polyray.evaluation.records import SampleRecord
from polyray.metrics.groups import PASS_THRESHOLD
from polyray.report.arms import Arm
from polyray.report.boards import DrawnPath, board_svg
from polyray.report.numbers import is_number
from polyray.report.run_data import Evaluation, TrainingRun
from polyray.tasks.hidden_trap_grid import cell_name, parse_prompt, trap_cells, walk
from polyray.types import WRONG_CLASS

GRID = "hidden_trap_grid"


@dataclass(frozen=True, slots=True)
class Answer:
    """One different completion among the candidates of a cell.

    Example:
        Answer(text="RRURUU", count=3, correct=True)
    """

    text: str
    count: int
    correct: bool | None
    """None: unscored."""

    @property
    def mark(self) -> str:
        """right, wrong or unscored, as a class name."""
        return "unscored" if self.correct is None else "right" if self.correct else "wrong"


@dataclass(frozen=True, slots=True)
class CandidateCell:
    """The candidates of one arm for one prompt."""

    arm: Arm
    answers: tuple[Answer, ...]
    caption: str
    board: str
    """An <svg> element, or "" for tasks without a board."""


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One prompt with a cell per arm."""

    prompt: str
    meaning: str
    """The prompt's question in words, or ""."""
    cells: tuple[CandidateCell, ...]


def candidate_rows(
    evaluation: Evaluation, arms: Sequence[Arm], num_prompts: int, k: int
) -> list[CandidateRow]:
    """The first k samples of `num_prompts` prompts spread evenly over the evaluated ones."""
    by_cell: dict[tuple[str, str], list[SampleRecord]] = {}
    for sample in evaluation.samples:
        by_cell.setdefault((sample.task_id, sample.model), []).append(sample)
    task_ids = list(dict.fromkeys(task_id for task_id, _ in by_cell))
    if not task_ids or num_prompts == 0:
        return []
    spec = grid_spec(evaluation.config)
    threshold = float(evaluation.metrics.get("pass_threshold", PASS_THRESHOLD))
    rows = []
    for task_id in (task_ids[position] for position in _spread(len(task_ids), num_prompts)):
        cells = []
        for arm in (arm for arm in arms if arm.evaluated):
            samples = sorted(by_cell.get((task_id, arm.label), []), key=lambda sample: sample.sample_index)[
                :k
            ]
            if samples:
                cells.append(_evaluated_cell(arm, samples, spec, threshold))
        prompt = (
            next(samples[0].prompt for (found, _), samples in by_cell.items() if found == task_id) or task_id
        )
        rows.append(CandidateRow(prompt, _meaning(prompt, spec), tuple(cells)))
    return rows


def training_rows(runs: Sequence[tuple[Arm, TrainingRun]], num_prompts: int, k: int) -> list[CandidateRow]:
    """Candidates of groups spread evenly over each run's rollouts.jsonl, in the order of training."""
    rows = []
    for arm, run in runs:
        spec = grid_spec(run.config)
        for position in _spread(len(run.groups), num_prompts):
            group = run.groups[position]
            judged = [
                (
                    entry["text"],
                    entry["reward"] >= PASS_THRESHOLD if is_number(entry["reward"]) else None,
                    entry["class"],
                )
                for entry in group["completions"][:k]
            ]
            prompt = str(group["prompt"])
            cell = _cell(arm, prompt, judged, spec)
            rows.append(
                CandidateRow(
                    prompt, f"step {group['step']}, {_meaning(prompt, spec)}".removesuffix(", "), (cell,)
                )
            )
    return rows


def grid_spec(config: Mapping[str, Any]) -> HiddenTrapGridSpec | None:
    """The board's settings where a run's task is the hidden-trap grid."""
    task = config.get("task", {})
    return HiddenTrapGridSpec.model_validate(task) if task.get("type") == GRID else None


def goal_shares(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """model -> task_id -> share of paths that end on the goal, traps or not; empty for other tasks."""
    if grid_spec(evaluation.config) is None:
        return {}
    reached: dict[str, dict[str, list[bool]]] = {}
    for sample in evaluation.samples:
        start, goal = parse_prompt(sample.prompt)
        cells = walk(start, sample.completion.strip())
        hit = cells is not None and cells[-1] == goal
        reached.setdefault(sample.model, {}).setdefault(sample.task_id, []).append(hit)
    return {
        model: {task_id: float(np.mean(hits)) for task_id, hits in prompts.items()}
        for model, prompts in reached.items()
    }


def _spread(length: int, count: int) -> list[int]:
    """At most `count` positions, spread evenly from the first to the last of `length`."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int)).tolist()


def _meaning(prompt: str, spec: HiddenTrapGridSpec | None) -> str:
    if spec is None:
        return ""
    start, goal = parse_prompt(prompt)
    return f"map {prompt[:2]}, from {cell_name(start)} to {cell_name(goal)}"


def _evaluated_cell(
    arm: Arm, samples: Sequence[SampleRecord], spec: HiddenTrapGridSpec | None, threshold: float
) -> CandidateCell:
    judged = [
        (sample.completion, sample.reward >= threshold if is_number(sample.reward) else None, sample.class_id)
        for sample in samples
    ]
    return _cell(arm, samples[0].prompt, judged, spec)


def _cell(
    arm: Arm, prompt: str, judged: Sequence[tuple[str, bool | None, int]], spec: HiddenTrapGridSpec | None
) -> CandidateCell:
    counts = Counter((text, correct) for text, correct, _ in judged)
    answers = [Answer(text, count, correct) for (text, correct), count in counts.items()]
    answers.sort(key=lambda answer: (answer.correct is not True, -answer.count, answer.text))
    num_correct = sum(correct is True for _, correct, _ in judged)
    num_classes = len({class_ for _, correct, class_ in judged if correct and class_ != WRONG_CLASS})
    board = ""
    if spec is not None:
        paths = [DrawnPath(answer.text.strip(), answer.count, answer.correct is True) for answer in answers]
        traps = trap_cells(spec.salt, prompt, spec.trap_probability)
        label = html.escape(f"{arm.label}: {num_correct} of {len(judged)} paths are correct", quote=True)
        board = board_svg(prompt, traps, paths, label)
    caption = f"{num_correct} of {len(judged)} correct"
    if num_correct:
        caption += f", {num_classes} different"
    return CandidateCell(arm, tuple(answers), caption, board)
