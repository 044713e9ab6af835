"""Tasks: which prompts are asked and how a completion is judged; one file per task, one line here.

    base.py               the protocol, `class_id`
    hidden_trap_grid.py   the default task: diverse attempts are worth more
    jsonl.py              the user's own prompts from a file
    social_replies.py     replies to posts                    headlines.py      headlines of stories
    creative_writing.py   stories, and open questions         text_task.py      what these three share
    text_quality.py       their heuristic quality             text_classes.py   when two texts are the same
    code.py               programs, judged by their tests          code_text.py, code_trees.py, differential*.py
    math.py               word problems                   math_answers.py   numbers and equations in texts
    question_answering.py questions with short answers
    splits.py             parts of the data that share nothing

No torch, no Ray: the reward service and the coordinator import this.
"""

from __future__ import annotations

from collections.abc import Callable

from polyray.config.task import TaskSpec
from polyray.config.text_tasks import TextTaskSpec
from polyray.tasks.base import Task
from polyray.tasks.code import CodeTask
from polyray.tasks.creative_writing import CreativeWriting
from polyray.tasks.headlines import Headlines
from polyray.tasks.hidden_trap_grid import HiddenTrapGrid
from polyray.tasks.jsonl import JsonlTask
from polyray.tasks.math import MathTask
from polyray.tasks.question_answering import QuestionAnsweringTask
from polyray.tasks.social_replies import SocialReplies

TASKS: dict[str, Callable[..., Task]] = {
    "hidden_trap_grid": HiddenTrapGrid,
    "jsonl": JsonlTask,
    "code": CodeTask,
    "math": MathTask,
    "question_answering": QuestionAnsweringTask,
    "social_replies": SocialReplies,
    "headlines": Headlines,
    "creative_writing": CreativeWriting,
}


def build_task(spec: TaskSpec, device: str = "cpu") -> Task:
    """The task a configuration asks for, its encoder, where it has one, on `device`. Raises DataError where its file
    is missing or broken."""
    if isinstance(spec, TextTaskSpec):
        return TASKS[spec.type](spec, device)
    return TASKS[spec.type](spec)
