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
    if name == "jsonl":
        task = build_task(jsonl(tmp_path / "a.jsonl"))
        demonstrations: list[Prompt] = []
    else:
        task = build_task(TypeAdapter(TaskSpec).validate_python({"type": name}))
        demonstrations = [task.demonstration(index, 0)[0] for index in range(3000)]
    trained = [task.training_prompt(index, 0) for index in range(3000)] + demonstrations
    parts = [trained, task.validation_prompts(), task.held_out_prompts()]
    assert all(parts) and task.validation_prompts(1) == parts[1][:1]
    for one, other in combinations(parts, 2):
        assert not {prompt_key(prompt) for prompt in one} & {prompt_key(prompt) for prompt in other}
        assert not _clusters(one) & _clusters(other)


def _clusters(prompts: list[Prompt]) -> set[str]:
    return {prompt.cluster_id or prompt.prompt_id for prompt in prompts}
