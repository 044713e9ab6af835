"""Word problems: which number is the answer, which steps are the same, and the agreement with human labels."""

from __future__ import annotations

import gzip
import json
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import MathSpec
from polyray.errors import DataError
from polyray.tasks.math import MathTask
from polyray.tasks.math_answers import answer_of, as_number, reasoning_steps
from polyray.types import WRONG_CLASS, Prompt
from tests.data_sets import shared_data


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 72", 72),
        ("#### $1,234.50.", Fraction(2469, 2)),
        ("The answer is 12 apples out of 20.", 12),
        ("the final answer is: 5 * 3 = 15 dollars", 15),
        ("9 left\nA: 18", 18),
        ("So \\boxed{\\frac{3}{4}} of it, 7 in all", Fraction(3, 4)),
        ("\\boxed{12\\%}", 12),
        ("It is 2 + 3 = 5 and then 50%", 50),
        ("so x = .5", Fraction(1, 2)),
        ("3-5", 5),
        ("from 7 to \u22125", -5),
        ("<<48/2=24>>", None),
        ("#### none, but the answer is 4", 4),
        ("", None),
        ("1/0", None),
    ],
)
def test_answer_of_text_is_the_marked_or_last_number(text: str, answer: Any):
    assert answer_of(text) == answer


def test_as_number_is_exact():
    assert as_number("0.1") == Fraction(1, 10) != as_number("0.10000001")
    assert as_number("1,000,000") == 1_000_000
    assert as_number("2.50") == as_number("5/2") == as_number("\\frac{5}{2}")
    assert as_number("twelve") is None and as_number("9" * 500) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("He has <<24*2=48>>48 and then <<48+3=51>>51", ["(2*24)=48", "(3+48)=51"]),
        ("He has 24 * 2 = 48 and then 3 + 48 = 51.", ["(2*24)=48", "(3+48)=51"]),
        ("2 x 24 apples = 48 apples\nthen 48 apples + 3 apples = $51.00", ["(2*24)=48", "(3+48)=51"]),
        ("2 \u00d7 24 = 48, and 48 + 3 = 51", ["(2*24)=48", "(3+48)=51"]),
        ("200 * 40% = 80 GB at 2 GB/minute, 80 / 2 = 40", ["(200*40)=80", "(80/2)=40"]),
        ("in 3 days 4 * 5 = 20", ["(4*5)=20"]),
        ("x = 5 and 7 = 7", []),
    ],
)
def test_steps_do_not_depend_on_the_notation(text: str, steps: list[str]):
    assert reasoning_steps(text) == steps


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("5 - 3 = 2", "3 - 5 = 2", False),
        ("6 / 3 = 2", "3 / 6 = 2", False),
        ("(1 + 2) * 3 = 9", "3 * (2 + 1) = 9", True),
        ("(1 + 2) * 3 = 9", "1 + 2 * 3 = 9", False),
        ("1 + 2 + 3 = 6", "3 + (1 + 2) = 6", True),
    ],
)
def test_steps_are_equal_up_to_commutativity(one: str, other: str, same: bool):
    assert (reasoning_steps(one) == reasoning_steps(other)) is same


HOSTILE = [
    "1" * 100_000,
    "1+" * 50_000 + "=",
    "(" * 50_000,
    "1 " * 50_000,
    "\\boxed{" * 5_000,
    "<<1" * 20_000,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:8])
def test_hostile_text_takes_seconds_at_most(hostile: str):
    started = time.process_time()
    answer_of(hostile)
    reasoning_steps(hostile)
    assert time.process_time() - started < 5.0


QUESTION = Prompt("q", "How many?", reference="1,200")


def test_reward_class_and_distance_compare_answers_and_steps():
    task = MathTask(MathSpec())
    right = ["10 * 120 = 1200\n#### 1200", "<<120*10=1200>>\n#### 1,200", "2 * 600 = 1200\n#### 1200.0"]
    assert [task.reward(QUESTION, text) for text in [*right, "#### 1201", ""]] == [1, 1, 1, 0, 0]
    a, b, c = task.partition(QUESTION, right)
    assert a == b != c
    assert task.completion_class(QUESTION, "10 * 120 = 1200\n#### 7") == WRONG_CLASS
    assert task.completion_class(QUESTION, "It is 1200!") == task.completion_class(QUESTION, "it is  1200.")
    assert task.distance(QUESTION, right[0], right[1]) == 0.0
    assert task.distance(QUESTION, right[0], right[2]) == 1.0
    longer = "10 * 120 = 1200\n1200 - 0 = 1200\n#### 1200"
    assert task.distance(QUESTION, right[0], longer) == task.distance(QUESTION, longer, right[0]) == 0.5
    assert task.distance(QUESTION, "It is 1200", "That is 1200") == pytest.approx(1 / 3)
    assert task.distance(QUESTION, right[0], "#### 3") == 0.0


def test_math_verify_compares_algebra_in_any_thread():
    task = MathTask(MathSpec(extractor="math_verify"))
    prompt = Prompt("q", "?", reference="$x+1$")
    rewards: list[float] = []
    for text in ("$1 + x$", "$x + 2$", "no idea"):
        thread = threading.Thread(target=lambda text=text: rewards.append(task.reward(prompt, text)))
        thread.start()
        thread.join()
    assert rewards == [1.0, 0.0, 0.0]


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(path: Path, *numbers: int) -> str:
    rows = [{"question": f"What is {n}?", "answer": f"<<{n}+0={n}>>{n}.\n#### {n}"} for n in numbers]
    return write(path, *rows)


def test_prompts_of_files_are_split_and_follow_the_instruction(tmp_path: Path):
    train, test = numbered(tmp_path / "train.jsonl", 1, 2, 3, 4, 5), numbered(tmp_path / "test.jsonl", 6, 7)
    task = MathTask(MathSpec(path=test, train_path=train, num_validation=2, mode="completion"))
    texts = [prompt.text for prompt in task.held_out_prompts()]
    assert texts == ["Question: What is 6?\nAnswer:", "Question: What is 7?\nAnswer:"]
    assert [prompt.prompt_id for prompt in task.validation_prompts()] == ["train-4", "train-5"]
    trained = {task.training_prompt(index, 0).prompt_id for index in range(30)}
    assert trained == {"train-1", "train-2", "train-3"}
    assert task.held_out_prompts(1)[0].reference == "6"
    prompt, response = task.demonstration(0, 0)
    assert response == f" {prompt.reference}.\n#### {prompt.reference}", "without the calculator's annotation"
    assert task.prompt_of("test-2") == task.held_out_prompts()[1]
    with pytest.raises(DataError, match=r"task_id 'test-9'.*\b7\b"):
        task.prompt_of("test-9")
    asked = MathTask(MathSpec(path=test, instruction="{question} Be {brief}.")).held_out_prompts()[0]
    assert asked.text == "What is 6? Be {brief}."
    assert asked.messages == ({"role": "user", "content": asked.text},)
    with pytest.raises(ValueError, match=r"instruction='hello'.*\{question\}"):
        MathSpec(instruction="hello")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "a.jsonl", "train_path": "a.jsonl", "num_validation": 0}, r"\b2\b.*'a-1'"),
        ({"path": "a.jsonl", "train_path": "b.jsonl"}, r"num_validation=500.*\b1\b"),
        ({"path": "c.jsonl"}, r"c\.jsonl:1.*'#### '"),
        ({"path": "none.jsonl"}, "grade-school-math"),
    ],
)
def test_broken_files_and_leaks_are_named(tmp_path: Path, fields: dict[str, Any], message: str):
    numbered(tmp_path / "a.jsonl", 1, 2)
    numbered(tmp_path / "b.jsonl", 3)
    write(tmp_path / "c.jsonl", {"question": "?", "answer": "5"})
    places: dict[str, Any] = {
        name: str(tmp_path / value) if name.endswith("path") else value for name, value in fields.items()
    }
    with pytest.raises(DataError, match=message):
        MathTask(MathSpec(**places))


def test_unusable_references_and_missing_training_file_are_named(tmp_path: Path):
    task = MathTask(MathSpec(path=numbered(tmp_path / "a.jsonl", 1, 2)))
    with pytest.raises(DataError, match=r"a\.jsonl.*task\.train_path"):
        task.training_prompt(0, 0)
    with pytest.raises(DataError, match=r"'q'.*'reference'"):
        task.reward(Prompt("q", "How many?"), "3")
    with pytest.raises(DataError, match=r"'x \+ 1'.*task\.extractor: math_verify"):
        task.reward(Prompt("q", "How many?", reference="x + 1"), "3")


def test_answers_agree_with_the_labels_of_gsm8ks_example_solutions():
    path = shared_data("math/gsm8k_example_model_solutions.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(rows) == 1319
    for row in rows:
        truth = answer_of(row["ground_truth"])
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            found = answer_of(row[model]["solution"]) == truth
            assert found == row[model]["is_correct"], (model, row["question"])


def test_gsm8ks_own_answers_have_reward_one():
    task = MathTask(MathSpec(path=str(shared_data("math/gsm8k_test.jsonl"))))
    examples = task.examples.held_out
    assert len(examples) == 1319
    assert all(task.reward(example.prompt, example.response) == 1.0 for example in examples)
    assert all(task.completion_class(example.prompt, example.response) != WRONG_CLASS for example in examples)
