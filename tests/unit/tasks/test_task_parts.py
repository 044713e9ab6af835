"""No task lets training, validation and evaluation share a prompt or a cluster."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from polyray.config.task import JsonlSpec, TaskSpec
from polyray.data.splits import prompt_key
from polyray.tasks import TASKS, build_task
from polyray.types import Prompt


def jsonl(path: Path) -> JsonlSpec:
    rows = [{"prompt": f"{n} {n % 90}", "cluster": f"c{n % 40}", "reference": "x"} for n in range(200)]
    rows += [{"prompt": f"{n} {n % 90}".upper(), "reference": "x"} for n in range(0, 200, 7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlSpec(path=str(path))


@pytest.mark.parametrize("name", TASKS)
def test_parts_of_a_task_share_neither_prompts_nor_clusters(name: str, tmp_path: Path) -> None:
    spec = (
        jsonl(tmp_path / "a.jsonl")
        if name == "jsonl"
        else TypeAdapter(TaskSpec).validate_python({"type": name})
    )
    task = build_task(spec)
    parts: dict[str, list[Prompt]] = {
        "training": [task.training_prompt(index, 0) for index in range(3000)],
        "demonstrations": [],
        "validation": task.validation_prompts(),
        "held out": task.held_out_prompts(),
    }
    if name != "jsonl":
        parts["demonstrations"] = [task.demonstration(index, 0)[0] for index in range(3000)]
    assert parts["validation"] and parts["held out"]
    assert task.validation_prompts(1) == parts["validation"][:1]
    for one, other in combinations(parts, 2):
        if {one, other} == {"training", "demonstrations"}:
            continue
        assert not _keys(parts[one]) & _keys(parts[other]), (one, other)
        assert not _clusters(parts[one]) & _clusters(parts[other]), (one, other)


def _keys(prompts: list[Prompt]) -> set[str]:
    return {prompt_key(prompt) for prompt in prompts}


def _clusters(prompts: list[Prompt]) -> set[str]:
    return {prompt.cluster_id or prompt.prompt_id for prompt in prompts}
