"""Short answers: SQuAD's measures against their published definition, the formats, unanswerable questions."""

from __future__ import annotations

import collections
import gzip
import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest

from polyray.config.task import QuestionAnsweringSpec
from polyray.data.questions import UNANSWERABLE
from polyray.errors import DataError
from polyray.tasks.question_answering import (
    QuestionAnsweringTask,
    exact_match,
    normal_answer,
    token_f1,
)
from polyray.types import WRONG_CLASS, Prompt


def published_normalisation(text: str) -> str:
    """Lower case, then punctuation out, then articles out, then white space: SQuAD's evaluation, step by step."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(word for word in re.sub(r"\b(a|an|the)\b", " ", text).split())


def published_f1(answer: str, gold: str) -> float:
    found, wanted = published_normalisation(answer).split(), published_normalisation(gold).split()
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if not found or not wanted:
        return float(found == wanted)
    return 2 * same / (len(found) + len(wanted))


def test_f1_and_exact_match_equal_squads_definition():
    rng = random.Random(0)
    words = [
        "the",
        "The",
        "an",
        "cat",
        "Cat.",
        "c-a-t",
        "sat",
        "on,",
        "mat",
        "U.S.",
        "a",
        "Ünder",
        "1,000",
        "--",
    ]
    for _ in range(500):
        text, *golds = (" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(3))
        assert normal_answer(text) == published_normalisation(text)
        golds = [gold for gold in golds if published_normalisation(gold)] or ["cat"]
        assert token_f1(text, golds) == pytest.approx(max(published_f1(text, gold) for gold in golds))
        accepted = map(published_normalisation, golds)
        assert exact_match(text, golds) == float(published_normalisation(text) in accepted)


@pytest.mark.parametrize("says_so", ["unanswerable", "Unanswerable.", "no answer", "", "the"])
def test_measures_of_unanswerable_questions_accept_no_answer_alone(says_so: str):
    assert exact_match(says_so, []) == token_f1(says_so, []) == 1.0
    assert exact_match("1874", []) == token_f1("1874", []) == 0.0
    assert exact_match(says_so, ["1874"]) == token_f1(says_so, ["1874"]) == 0.0


def test_right_answer_unknown_is_an_answer_as_any_other():
    prompt = Prompt("q", "Who wrote Beowulf?", metadata={"answers": ["Unknown", "An unknown poet"]})
    for metric in ("exact_match", "f1"):
        task = QuestionAnsweringTask(QuestionAnsweringSpec(metric=metric))
        assert [task.reward(prompt, text) for text in ("Unknown.", "unknown poet", "Homer")] == [1, 1, 0]
        known, poet, wrong = task.partition(prompt, ["unknown", "an unknown poet", "no answer"])
        assert known != poet and wrong == WRONG_CLASS
        assert task.distance(prompt, "unknown", "an unknown poet") == pytest.approx(1 / 3)


def test_rewards_classes_and_distances_follow_the_answers():
    prompt = Prompt("q", "Who?", metadata={"answers": ["Ada Lovelace", "Lovelace"]})
    task = QuestionAnsweringTask(QuestionAnsweringSpec())
    texts = ["\n Answer: ada lovelace \nShe wrote.", "The Lovelace.", "Ada", "ADA  LOVELACE!"]
    assert [task.reward(prompt, text) for text in texts] == [1.0, 1.0, 0.0, 1.0]
    a, b, c, d = task.partition(prompt, texts)
    assert a == d != b and c == WRONG_CLASS
    assert task.distance(prompt, texts[0], texts[1]) == pytest.approx(1 - 2 / 3)
    assert task.distance(prompt, texts[0], texts[2]) == 0.0
    graded = QuestionAnsweringTask(QuestionAnsweringSpec(metric="f1"))
    assert graded.reward(prompt, "Ada") == pytest.approx(2 / 3)
    assert graded.completion_class(prompt, "Ada") != WRONG_CLASS == graded.completion_class(prompt, "Bob")
    assert task.reward(Prompt("", "Who?", reference="Ada"), "ada") == 1.0
    assert task.reward(Prompt("", "Who?", reference=UNANSWERABLE), "unanswerable") == 1.0
    for metadata in ({}, {"answers": "ada"}):
        with pytest.raises(DataError, match="'answers'"):
            task.reward(Prompt("", "Who?", metadata=metadata), "ada")


def squad(*questions: dict[str, Any]) -> str:
    paragraphs = [{"context": "The cat sat.", "qas": list(questions)}]
    return json.dumps({"version": "v2.0", "data": [{"title": "Cats", "paragraphs": paragraphs}]})


WHO = {"id": "1", "question": "Who sat?", "answers": [{"text": "The cat"}, {"text": "cat"}, {"text": "cat"}]}


@pytest.mark.parametrize("packed", [False, True])
def test_squad_file_gives_prompts_with_all_answers(tmp_path: Path, packed: bool):
    path = tmp_path / ("dev.json.gz" if packed else "dev.json")
    nowhere = {
        "id": "2",
        "question": "Where?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": [WHO],
    }
    content = squad(WHO, nowhere).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    task = QuestionAnsweringTask(QuestionAnsweringSpec(path=str(path), mode="completion"))
    who, where = task.held_out_prompts()
    assert who.text == "The cat sat.\n\nQuestion: Who sat?\nAnswer:"
    assert (who.prompt_id, who.reference, who.metadata) == ("1", "The cat", {"answers": ["The cat", "cat"]})
    assert who.cluster_id == where.cluster_id, "one text is one unit of statistics"
    assert where.reference == UNANSWERABLE and task.reward(where, "unanswerable") == 1.0


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_lines_of_natural_questions_and_of_hugging_face_give_prompts(tmp_path: Path):
    answers = {"text": ["cat"], "answer_start": [4]}
    path = write(
        tmp_path / "NQ-open.dev.jsonl",
        {"question": "who sat", "answer": ["The cat"]},
        {"id": "h", "question": "Who?", "context": "The cat sat.", "answers": answers},
        {"question": "Where?", "context": "The cat sat.", "answers": []},
    )
    task = QuestionAnsweringTask(QuestionAnsweringSpec(path=path, instruction="{question}"))
    first, second, third = task.held_out_prompts()
    assert (first.prompt_id, first.text, first.cluster_id) == ("NQ-open-1", "who sat", "NQ-open-1")
    assert second.prompt_id == "h" and second.text == "The cat sat.\n\nWho?"
    assert second.cluster_id == third.cluster_id and third.metadata == {"answers": []}


def test_training_part_has_no_text_of_the_validation_part(tmp_path: Path):
    rows = [{"question": f"q{n}", "context": f"text {n // 2}", "answer": [str(n)]} for n in range(8)]
    train = write(tmp_path / "train.jsonl", *rows)
    test = write(tmp_path / "t.jsonl", {"question": "x", "answer": "y"})
    task = QuestionAnsweringTask(QuestionAnsweringSpec(path=test, train_path=train, num_validation=1))
    assert [prompt.prompt_id for prompt in task.validation_prompts()] == ["train-8"]
    assert {task.training_prompt(i, 0).prompt_id for i in range(60)} == {f"train-{n}" for n in range(1, 7)}
    prompt, response = task.demonstration(0, 0)
    assert task.reward(prompt, response) == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "JSON"),
        ("a.json", '{"rows": []}', "SQuAD.*list 'data'"),
        ("a.json", squad(WHO, WHO), "'1'"),
        ("a.json", squad({"id": "1", "question": "?"}), r"paragraphs\[0\].*'answers'"),
        ("a.jsonl", '{"question": "?", "answer": 3}', "answers.*int"),
        ("a.jsonl", '{"question": "?", "answer": [3]}', r"answer.*\b3\b"),
        ("a.jsonl", '{"question": "?"}\n', "a.jsonl:1.*'answers'"),
        ("a.jsonl", '{"question": "?", "answer": "x"}\n{', "a.jsonl:2.*JSON"),
        ("a.json", None, r"SQuAD-explorer.*natural-questions"),
    ],
)
def test_broken_or_missing_file_is_named(tmp_path: Path, name: str, content: str | None, message: str):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        QuestionAnsweringTask(QuestionAnsweringSpec(path=str(tmp_path / name)))


def test_builtin_questions_have_parts_and_right_answers():
    task = QuestionAnsweringTask(QuestionAnsweringSpec())
    examples = task.examples
    assert (len(examples.held_out), len(examples.validation), len(examples.training)) == (6, 3, 8)
    for example in (*examples.held_out, *examples.validation, *examples.training):
        assert task.reward(example.prompt, example.response) == 1.0
    clusters = [{row.prompt.cluster_id for row in part} for part in (examples.held_out, examples.validation)]
    assert not clusters[0] & clusters[1]
