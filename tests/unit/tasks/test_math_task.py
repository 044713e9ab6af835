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
        ("She has 3.\n#### 5\n#### -6 apples", -6),
        ("The answer is 12 apples out of 20.", 12),
        ("the final answer is: 5 * 3 = 15 dollars", 15),
        ("9 left\nA: 18", 18),
        ("So \\boxed{\\frac{3}{4}} of it, 7 in all", Fraction(3, 4)),
        ("\\boxed{12\\%}", 12),
        ("It is 2 + 3 = 5 and then 50%", 50),
        ("half is 1/2", Fraction(1, 2)),
        ("so x = .5", Fraction(1, 2)),
        ("3-5", 5),
        ("from 7 to -5", -5),
        ("from 7 to \u22125", -5),
        ("It costs $ 3.", 3),
        ("<<48/2=24>>", None),
        ("#### none, but the answer is 4", 4),
        ("no number", None),
        ("", None),
        ("1/0", None),
    ],
)
def test_the_answer_in_a_text(text: str, answer: Any):
    assert answer_of(text) == answer


def test_numbers_are_exact():
    assert as_number("0.1") == Fraction(1, 10) != as_number("0.10000001")
    assert as_number("1,000,000") == 1_000_000
    assert as_number("2.50") == as_number("5/2") == as_number("\\frac{5}{2}")
    assert as_number("twelve") is None and as_number("9" * 500) is None


@pytest.mark.parametrize(
    "same",
    [
        "He has <<24*2=48>>48 and then <<48+3=51>>51",
        "He has 24 * 2 = 48 and then 3 + 48 = 51.",
        "2 x 24 apples = 48 apples\nthen 48 apples + 3 apples = $51.00",
        "2 \u00d7 24 = 48, and 48 + 3 = 51",
    ],
)
def test_steps_do_not_depend_on_how_they_are_written(same: str):
    assert reasoning_steps(same) == ["(2*24)=48", "(3+48)=51"]


def test_steps_respect_commutativity():
    assert reasoning_steps("5 - 3 = 2") != reasoning_steps("3 - 5 = 2")
    assert reasoning_steps("6 / 3 = 2") != reasoning_steps("3 / 6 = 2")
    assert reasoning_steps("(1 + 2) * 3 = 9") == reasoning_steps("3 * (2 + 1) = 9")
    assert reasoning_steps("(1 + 2) * 3 = 9") != reasoning_steps("1 + 2 * 3 = 9")
    assert reasoning_steps("1 + 2 + 3 = 6") == reasoning_steps("3 + (1 + 2) = 6")
    assert reasoning_steps("200 * 40% = 80 GB at 2 GB/minute, 80 / 2 = 40") == ["(200*40)=80", "(80/2)=40"]
    assert reasoning_steps("in 3 days 4 * 5 = 20") == ["(4*5)=20"]
    assert reasoning_steps("x = 5 and 7 = 7") == []


@pytest.mark.parametrize(
    "hostile",
    [
        "1" * 100_000,
        "1+" * 50_000 + "=",
        "(" * 50_000,
        "1 " * 50_000,
        "\\boxed{" * 5_000,
        "<<1" * 20_000,
        ",1" * 50_000,
    ],
)
def test_hostile_texts_take_no_time(hostile: str):
    started = time.process_time()
    answer_of(hostile)
    reasoning_steps(hostile)
    assert time.process_time() - started < 5.0


QUESTION = Prompt("q", "How many?", reference="1,200")


def test_reward_class_and_distance():
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


def test_prompts_without_a_number_to_compare_with_are_named():
    task = MathTask(MathSpec())
    with pytest.raises(DataError, match=r"'q'.*'reference'"):
        task.reward(Prompt("q", "How many?"), "3")
    with pytest.raises(DataError, match=r"'x \+ 1'.*task\.extractor: math_verify"):
        task.reward(Prompt("q", "How many?", reference="x + 1"), "3")


def test_math_verify_knows_algebra_also_outside_the_main_thread():
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
    return write(
        path, *({"question": f"What is {n}?", "answer": f"<<{n}+0={n}>>{n}.\n#### {n}"} for n in numbers)
    )


def test_validation_is_the_end_of_the_training_file(tmp_path: Path):
    train, test = numbered(tmp_path / "train.jsonl", 1, 2, 3, 4, 5), numbered(tmp_path / "test.jsonl", 6, 7)
    task = MathTask(MathSpec(path=test, train_path=train, num_validation=2, mode="completion"))
    assert [prompt.text for prompt in task.held_out_prompts()] == [
        "Question: What is 6?\nAnswer:", "Question: What is 7?\nAnswer:",
    ]  # fmt: skip
    assert [prompt.prompt_id for prompt in task.validation_prompts()] == ["train-4", "train-5"]
    assert {task.training_prompt(index, 0).prompt_id for index in range(30)} == {
        "train-1",
        "train-2",
        "train-3",
    }
    assert task.held_out_prompts(1)[0].reference == "6"
    prompt, response = task.demonstration(0, 0)
    assert response == f" {prompt.reference}.\n#### {prompt.reference}", "without the calculator's annotation"
    assert task.prompt_of("test-2") == task.held_out_prompts()[1]
    with pytest.raises(DataError, match=r"task_id 'test-9'.*\b7\b"):
        task.prompt_of("test-9")


def test_chat_prompts_are_built_from_the_instruction(tmp_path: Path):
    path = numbered(tmp_path / "test.jsonl", 6)
    prompt = MathTask(MathSpec(path=path, instruction="{question} Be {brief}.")).held_out_prompts()[0]
    assert prompt.text == "What is 6? Be {brief}." and prompt.messages == (
        {"role": "user", "content": prompt.text},
    )
    with pytest.raises(ValueError, match=r"instruction='hello'.*\{question\}"):
        MathSpec(instruction="hello")


def test_broken_files_and_leaks_are_named(tmp_path: Path):
    path = numbered(tmp_path / "a.jsonl", 1, 2)
    with pytest.raises(DataError, match=r"\b2\b.*'a-1'"):
        MathTask(MathSpec(path=path, train_path=path, num_validation=0))
    other = numbered(tmp_path / "b.jsonl", 3)
    with pytest.raises(DataError, match=r"num_validation=500.*\b1\b"):
        MathTask(MathSpec(path=path, train_path=other))
    with pytest.raises(DataError, match=r"a\.jsonl.*task\.train_path"):
        MathTask(MathSpec(path=path)).training_prompt(0, 0)
    broken = write(tmp_path / "c.jsonl", {"question": "?", "answer": "5"})
    with pytest.raises(DataError, match=r"c\.jsonl:1.*'#### '"):
        MathTask(MathSpec(path=broken))
    with pytest.raises(DataError, match=r"grade-school-math"):
        MathTask(MathSpec(path=str(tmp_path / "none.jsonl")))


def test_agreement_with_the_labels_of_gsm8ks_example_solutions():
    path = shared_data("math/gsm8k_example_model_solutions.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        disagreements = [
            row["question"]
            for row in rows
            if (answer_of(row[model]["solution"]) == answer_of(row["ground_truth"]))
            != row[model]["is_correct"]
        ]
        assert disagreements == [], model
    assert len(rows) == 1319


def test_gsm8ks_own_answers_are_right():
    task = MathTask(MathSpec(path=str(shared_data("math/gsm8k_test.jsonl"))))
    examples = task.examples.held_out
    assert len(examples) == 1319
    assert all(task.reward(example.prompt, example.response) == 1.0 for example in examples)
    assert all(task.completion_class(example.prompt, example.response) != WRONG_CLASS for example in examples)
