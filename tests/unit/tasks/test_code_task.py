"""The programming task: prompts, what is cut and joined, classes, and verdicts on the data sets' own solutions."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import CodeSpec
from polyray.errors import DataError, RewardError
from polyray.sandbox import Limits, run_program, run_programs
from polyray.tasks import build_task
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


def test_completions_continue_the_prompt_and_end_at_a_stop_word(tmp_path: Path):
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
def test_programs_are_taken_out_of_fences_and_get_the_prompts_helpers(tmp_path: Path, answer: str):
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


def test_a_prompt_from_the_wire_is_known_by_its_metadata(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    assert task.program(Prompt("", "text", metadata={"task_id": "T/add"}), "    return 1") == task.program(
        prompt, "    return 1"
    )
    with pytest.raises(DataError, match=r"task_id 'X/1' is none of the 1 problems of .*such as 'T/add'"):
        task.program(Prompt("", "text", metadata={"task_id": "X/1"}), "    return 1")


def test_rewards_need_the_sandbox_and_say_so(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    with pytest.raises(RewardError, match=r"set reward\.type: sandbox .*--allow-code-execution"):
        task.reward(prompt, "    return a + b")


def test_an_over_long_program_fails_with_the_reason_and_is_not_run(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    long = "    return a + b\n" + "    # " + "x" * 50_000
    result = run_program(task.program(prompt, long))
    assert result.verdict == "failed" and "more than the 50000 that are run" in result.message
    assert task.completion_class(prompt, long) == WRONG_CLASS


def test_classes_and_distances_are_those_of_the_programs(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    same, renamed = "    c = a + b\n    return c", "    total = a + b  # why\n    return total"
    other, broken = "    return b + a", "    return ((a"
    classes = task.partition(prompt, [same, renamed, other, broken, "    x = '\ud800'"])
    assert classes[0] == classes[1] != classes[2]
    assert classes[3] == classes[4] == WRONG_CLASS
    assert task.distance(prompt, same, renamed) == 0.0
    assert 0.0 < task.distance(prompt, same, other) == task.distance(prompt, other, same) < 1.0
    assert task.distance(prompt, same, broken) == 0.0


def test_surrogates_reach_the_sandbox(tmp_path: Path):
    task, prompt = task_of(tmp_path)
    assert verdict(task, prompt, "    return '\ud800'") == "failed"


def test_mbpp_runs_programs_alone_and_its_check_does_not_clash(tmp_path: Path):
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


def test_demonstrations_pass_in_both_modes_and_few_shot_examples_are_apart(tmp_path: Path):
    for mode in ("completion", "program"):
        task = CodeTask(CodeSpec(mode=mode))
        for index in range(3):
            prompt, response = task.demonstration(index, seed=0)
            assert verdict(task, prompt, response) == "passed"
    with pytest.raises(DataError, match="5 examples for the prompt, but builtin keeps 0 problems"):
        CodeTask(CodeSpec()).few_shot_examples(5)
    held_out, prompt = task_of(tmp_path)
    with pytest.raises(DataError, match=r"has no training part; set task\.train_path"):
        held_out.training_prompt(0, 0)


def test_training_prompts_are_shuffled_epochs():
    task = CodeTask(CodeSpec())
    ids = [task.training_prompt(index, seed=3).prompt_id for index in range(16)]
    assert sorted(ids[:8]) == sorted(ids[8:]) and len(set(ids[:8])) == 8
    assert ids[:8] != ids[8:]
    assert ids == [task.training_prompt(index, seed=3).prompt_id for index in range(16)]
    parts = [
        task.held_out_prompts(),
        task.validation_prompts(),
        [task.training_prompt(i, 0) for i in range(8)],
    ]
    assert len({prompt.prompt_id for part in parts for prompt in part}) == 16


def test_every_solution_of_the_builtin_set_passes_and_a_wrong_one_does_not():
    task = CodeTask(CodeSpec())
    problems = [*task.problems.held_out, *task.problems.validation, *task.problems.training]
    prompts = [task.prompt_of(problem.task_id) for problem in problems]
    right = [task.program(prompt, task.reference(prompt) or "") for prompt in prompts]
    wrong = [task.program(prompt, "    return 'nothing of the kind'\n") for prompt in prompts]
    verdicts = [result.verdict for result in run_programs([*right, *wrong], Limits(timeout_s=10.0))]
    assert verdicts == ["passed"] * 16 + ["failed"] * 16


def test_the_stop_words_leave_the_solutions_of_the_data_sets_whole():
    for name, expected in (("code/HumanEval.jsonl.gz", 0), ("code/mbpp.jsonl", 1)):
        task = build_task(CodeSpec(path=str(shared_data(name)), held_out="all"))
        assert isinstance(task, CodeTask)
        cut = [
            prompt.prompt_id
            for prompt in task.held_out_prompts()
            if task.cut(prompt, task.reference(prompt) or "").strip()
            != (task.reference(prompt) or "").strip()
        ]
        assert len(cut) == expected, cut  # Mbpp/342 has a top-level if


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("code/HumanEval.jsonl.gz", 164), ("code/mbpp.jsonl", 974)])
def test_all_solutions_of_the_data_sets_pass(name: str, size: int):
    task = CodeTask(CodeSpec(path=str(shared_data(name)), held_out="all", stop=()))
    programs = (task.program(prompt, task.reference(prompt) or "") for prompt in task.held_out_prompts())
    verdicts = collections.Counter(
        result.verdict for result in run_programs(programs, Limits(timeout_s=20.0))
    )
    assert verdicts == {"passed": size}
