"""The programming task: prompts, what is cut and joined, classes, and verdicts on the data sets' own solutions."""

from __future__ import annotations

import collections
import json
import re
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec
from polyray.errors import DataError, RewardError
from polyray.sandbox import Limits, run_program, run_programs
from polyray.tasks.code import CodeTask
from polyray.tasks.code_text import HUMANEVAL_STOP, MBPP_STOP, cut_at_stop, fenced_program
from polyray.types import WRONG_CLASS, Prompt
from tests.data_sets import shared_data

ADD = {
    "task_id": "T/add",
    "prompt": 'from math import floor\n\ndef helper(x):\n    return x\n\ndef add(a, b):\n    """a + b"""\n',
    "entry_point": "add",
    "canonical_solution": "    return helper(a) + b\n",
    "test": "def check(add):\n    assert add(1, 2) == 3\n    assert helper(floor(1.5)) == 1\n",
}


def task_of(tmp_path: Path, row: dict[str, Any] = ADD, **fields: Any) -> tuple[CodeTask, Prompt]:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(row) + "\n")
    task = CodeTask(CodeSpec(path=str(path), held_out="all", cache_dir=str(tmp_path / "cache"), **fields))
    return task, task.held_out_prompts()[0]


def verdict(task: CodeTask, prompt: Prompt, completion: str) -> str:
    return run_program(task.program(prompt, completion), Limits(timeout_s=10.0)).verdict


def test_completion_continues_the_prompt_up_to_a_stop_word(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    assert prompt.text == ADD["prompt"] and prompt.messages is None
    assert (prompt.prompt_id, prompt.cluster_id, prompt.metadata) == ("T/add", "T/add", {"task_id": "T/add"})
    completion = "    return a + b\n\nprint(add(1"
    assert task.cut(prompt, completion) == "    return a + b\n"
    assert task.source(prompt, completion) == ADD["prompt"] + "    return a + b\n"
    assert verdict(task, prompt, completion) == "passed"
    as_it_stands, _ = task_of(tmp_path, stop=())
    assert verdict(as_it_stands, prompt, completion) == "failed"
    assert verdict(task, prompt, "    return a - b") == "failed"


@pytest.mark.parametrize(
    "answer",
    [
        "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.",
        "```\ndef other(): pass\n```\n\n```py\ndef add(a, b):\n    return a + b\n```",
        "```python\n    return a + b\n```",
        "    return a + b",
        "def add(a, b):\n    return a + b\n\nprint(1",
        "```python\ndef add(a, b):\n    return a + b\n",
    ],
)
def test_program_is_taken_out_of_fences_and_gets_the_helpers(tmp_path: Path, answer: str):
    task, prompt = task_of(tmp_path, mode="program")
    assert prompt.messages is not None and prompt.messages[0]["content"] == prompt.text
    assert ADD["prompt"] in prompt.text
    assert verdict(task, prompt, answer) == "passed"


def test_fences_and_stop_words():
    assert fenced_program("no fence", None) is None
    assert fenced_program("```\nx = 1\n```\n```\ndef f():\n    pass\n```", None) == "def f():\n    pass\n"
    assert fenced_program("```\nx = 1\n```\n```\ny = 2\n```", "f") == "x = 1\n"
    assert cut_at_stop("a\nif b\nclass c", HUMANEVAL_STOP) == "a"
    assert cut_at_stop("import x\ndef f(): pass\nassert f()", MBPP_STOP) == "import x\ndef f(): pass"
    assert cut_at_stop("nothing", ()) == "nothing"


def test_long_program_fails_without_a_run_and_odd_calls_are_refused(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    long = "    return a + b\n" + "    # " + "x" * 50_000
    result = run_program(task.program(prompt, long))
    assert result.verdict == "failed" and re.search(r"\b50000\b", result.message)
    assert task.completion_class(prompt, long) == WRONG_CLASS
    sent = Prompt("", "text", metadata={"task_id": "T/add"})
    assert task.program(sent, "    return 1") == task.program(prompt, "    return 1")
    with pytest.raises(DataError, match=r"'X/1'.*\b1 problems.*'T/add'"):
        task.program(Prompt("", "text", metadata={"task_id": "X/1"}), "    return 1")
    with pytest.raises(RewardError, match=r"reward\.type: sandbox .*--allow-code-execution"):
        task.reward(prompt, "    return a + b")
    with pytest.raises(DataError, match=r"task\.train_path"):
        task.training_prompt(0, 0)


def test_classes_and_distances_compare_syntax_trees(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    same, renamed = "    c = a + b\n    return c", "    total = a + b  # why\n    return total"
    other, broken = "    return b + a", "    return ((a"
    classes = task.partition(prompt, [same, renamed, other, broken, "    x = '\ud800'"])
    assert classes[0] == classes[1] != classes[2]
    assert classes[3] == classes[4] == WRONG_CLASS
    assert task.distance(prompt, same, renamed) == 0.0
    assert 0.0 < task.distance(prompt, same, other) == task.distance(prompt, other, same) < 1.0
    assert task.distance(prompt, same, broken) == 0.0


def test_mbpp_program_named_check_is_judged(tmp_path: Path):
    row = {
        "task_id": 56,
        "text": "Say whether.",
        "code": "def rev(n): return int(str(n)[::-1])\ndef check(n): return 2 * rev(n) == n + 1",
        "test_list": ["assert check(70) == False", "assert check(73) == True"],
    }
    task, prompt = task_of(tmp_path, row)
    assert prompt.prompt_id == "Mbpp/56" and task.prompt_of("56") == prompt
    assert verdict(task, prompt, row["code"]) == "passed"
    assert verdict(task, prompt, row["code"].replace("==", "!=")) == "failed"


@pytest.mark.parametrize("mode", ["completion", "program"])
def test_demonstration_of_either_mode_passes(mode: Any):
    task = CodeTask(CodeSpec(mode=mode))
    prompt, response = task.demonstration(1, seed=0)
    assert verdict(task, prompt, response) == "passed"
    with pytest.raises(DataError, match=r"\b5 examples.*\b0 problems"):
        task.few_shot_examples(5)


def test_solutions_of_the_builtin_set_pass_and_wrong_ones_fail():
    task = CodeTask(CodeSpec())
    problems = [*task.problems.held_out, *task.problems.validation, *task.problems.training]
    prompts = [task.prompt_of(problem.task_id) for problem in problems]
    right = [task.program(prompt, task.reference(prompt) or "") for prompt in prompts]
    wrong = [task.program(prompt, "    return 'nothing of the kind'\n") for prompt in prompts]
    verdicts = [result.verdict for result in run_programs([*right, *wrong], Limits(timeout_s=10.0))]
    assert verdicts == ["passed"] * 16 + ["failed"] * 16


@pytest.mark.parametrize(
    ("name", "shortened"), [("code/HumanEval.jsonl.gz", []), ("code/mbpp.jsonl", ["Mbpp/342"])]
)
def test_stop_words_leave_the_solutions_of_a_data_set_whole(name: str, shortened: list[str]):
    """Mbpp/342 has a top-level if."""
    task = CodeTask(CodeSpec(path=str(shared_data(name)), held_out="all"))
    whole = [(prompt, task.reference(prompt) or "") for prompt in task.held_out_prompts()]
    cut = [prompt.prompt_id for prompt, text in whole if task.cut(prompt, text).strip() != text.strip()]
    assert cut == shortened


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("code/HumanEval.jsonl.gz", 164), ("code/mbpp.jsonl", 974)])
def test_all_solutions_of_the_data_sets_pass(name: str, size: int):
    task = CodeTask(CodeSpec(path=str(shared_data(name)), held_out="all", stop=()))
    programs = (task.program(prompt, task.reference(prompt) or "") for prompt in task.held_out_prompts())
    verdicts = collections.Counter(
        result.verdict for result in run_programs(programs, Limits(timeout_s=20.0))
    )
    assert verdicts == {"passed": size}
