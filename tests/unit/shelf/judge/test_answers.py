"""Answers of judges: clean, wrapped, or wrong with a named problem."""

from __future__ import annotations

import re

import pytest

from polyray.config.judge import CriterionSpec, JudgeSpec
from polyray.shelf.judge.answers import InvalidAnswer, classes_of, parse_answer
from polyray.shelf.judge.items import Candidate, ClusterItem, RubricItem
from polyray.shelf.judge.questions import cluster_question, rubric_question
from polyray.types import WRONG_CLASS

SPEC = JudgeSpec.model_validate(
    {"provider": "openai", "model": "m", "explain": False, "criteria": ["relevance", "coherence"]}
)
RUBRIC = rubric_question(RubricItem("i", "t", "p", "c", Candidate("x")), SPEC)
CLUSTERS = cluster_question(
    ClusterItem("i", "t", "p", "c", (Candidate("x"), Candidate("y"), Candidate("z"))), SPEC
)


@pytest.mark.parametrize(
    "text",
    [
        '{"relevance": 4, "coherence": 2}',
        '```json\n{"coherence": 2, "relevance": 4}\n```',
        'Let me see {hm}. My scores: {"relevance": 4,\n "coherence": 2} I am sure.',
        '{"relevance": 4.0, "coherence": 2}',
    ],
)
def test_parse_answer_finds_the_object(text: str) -> None:
    assert parse_answer(text, RUBRIC) == {"relevance": 4, "coherence": 2}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("Both are fine.", "no complete JSON"),
        ('{"relevance": 4, "coherence": ', "no complete JSON"),
        ("{" * 5000, "no complete JSON"),
        ('{"a":' * 5000, "no complete JSON"),
        ('{"relevance": 4}', "'coherence'"),
        ('{"relevance": 4, "coherence": 2, "humour": 5}', "'humour'"),
        ('{"relevance": 6, "coherence": 2}', "relevance=6"),
        ('{"relevance": 4.5, "coherence": 2}', "relevance=4.5"),
        ('{"relevance": "4", "coherence": 2}', "relevance='4'"),
        ('{"relevance": true, "coherence": 2}', "relevance=True"),
        ('{"relevance": NaN, "coherence": 2}', "relevance=nan"),
        ('{"relevance": null, "coherence": 2}', "relevance=None"),
        ('{"relevance": 4, "relevance": 5, "coherence": 2}', "'relevance'...twice"),
        ('{"relevance": 4, "coherence": 2} {"relevance": 1, "coherence": 1}', "2 JSON objects"),
        ('[{"relevance": 4, "coherence": 2}, {"relevance": 1, "coherence": 1}]', "2 JSON objects"),
    ],
)
def test_parse_answer_names_the_problem(text: str, problem: str) -> None:
    with pytest.raises(InvalidAnswer, match=".*".join(map(re.escape, problem.split("...")))):
        parse_answer(text, RUBRIC)


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ('"candidate_2": 1', "'candidate_3'"),
        ('"candidate_2": 1, "candidate_3": 2, "candidate_1": 2', "'candidate_1' .*twice"),
        ('"candidate_2": 1, "candidate_3": 2, "candidate_4": 2', "'candidate_4'"),
        ('"candidate_2": 1, "candidate_3": 4', "candidate_3=4"),
        ('"candidate_2": [1, 2], "candidate_3": 1', "candidate_2="),
    ],
)
def test_parse_answer_wants_every_candidate_in_one_group(groups: str, problem: str) -> None:
    with pytest.raises(InvalidAnswer, match=problem):
        parse_answer(f'{{"candidate_1": 1, {groups}}}', CLUSTERS)


def test_classes_are_numbered_by_appearance_and_garbage_stays_apart() -> None:
    assert classes_of([3, 1, 0, 3, 2, 0]) == [0, 1, WRONG_CLASS, 0, 2, WRONG_CLASS]
    assert classes_of([0, 0]) == [WRONG_CLASS, WRONG_CLASS]


def test_criterion_may_be_called_like_a_method() -> None:
    spec = SPEC.model_copy(update={"criteria": (CriterionSpec(name="copy", description="d"),)})
    question = rubric_question(RubricItem("i", "t", "p", "c", Candidate("x")), spec)
    assert parse_answer('{"copy": 3}', question) == {"copy": 3}
