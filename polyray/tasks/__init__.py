"""Tasks: which prompts are asked and how a completion is judged; one file per task, one line here.

    base.py               the protocol, `class_id`
    hidden_trap_grid.py   the default task: diverse attempts are worth more
    jsonl.py              the user's own prompts from a file

No torch, no Ray: the reward service and the coordinator import this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyray.config.task import TaskSpec
from polyray.tasks.base import Task
from polyray.tasks.hidden_trap_grid import HiddenTrapGrid
from polyray.tasks.jsonl import JsonlTask

TASKS: dict[str, Callable[[Any], Task]] = {"hidden_trap_grid": HiddenTrapGrid, "jsonl": JsonlTask}


def build_task(spec: TaskSpec) -> Task:
    """The task a configuration asks for. Raises DataError where its file is missing or broken."""
    return TASKS[spec.type](spec)
