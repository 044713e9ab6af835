"""Tasks with answers that can be checked: programs, numbers, short answers. Members of the union in task.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from polyray.config.base import StrictModel
from polyray.config.paths import BuiltinOrPath, FilePath


class CodeSpec(StrictModel):
    """Programs judged by their tests, which only `reward.type: sandbox` executes."""

    type: Literal["code"] = "code"
    path: BuiltinOrPath = Field(
        default="builtin", description="builtin, or a .jsonl or .jsonl.gz file of one of the data sets"
    )
    dataset: Literal["auto", "humaneval", "humaneval_plus", "mbpp", "mbpp_plus"] = Field(
        default="auto", description="format of the problems; auto: by their fields"
    )
    reference_path: FilePath | None = Field(
        default=None,
        description="humaneval_plus of 2023-04: rows of corrected references for `path`, by index",
    )
    inputs_path: FilePath | None = Field(
        default=None, description="humaneval_plus of 2023-04: the file of plus inputs"
    )
    train_path: FilePath | None = Field(
        default=None, description="problems to train on, where those of `path` are all held out"
    )
    held_out: Literal["split", "all"] = Field(
        default="split",
        description="split: the data set's own test part, e.g. 11-510 of MBPP; all: everything",
    )
    mode: Literal["completion", "program"] = Field(
        default="completion",
        description="the prompt is continued, or a chat message is answered by a whole program in a fenced block",
    )
    stop: tuple[str, ...] | None = Field(
        default=None, description="completions are cut before the first of these; null: the published ones"
    )
    cache_dir: FilePath = Field(
        default="~/.cache/polyray", description="expected outputs of the plus data sets are kept here"
    )


class MathSpec(StrictModel):
    """Word problems with a number as the answer: GSM8K's format."""

    type: Literal["math"] = "math"
    path: BuiltinOrPath = Field(default="builtin", description="builtin, or the file of held-out problems")
    train_path: FilePath | None = Field(default=None, description="the file of training problems")
    num_validation: int = Field(
        default=500, ge=0, description="the last so many problems of `train_path` are for validation"
    )
    extractor: Literal["last_number", "math_verify"] = Field(
        default="last_number",
        description="how the answer is read from a completion: its last number, or the package math-verify",
    )
    mode: Literal["chat", "completion"] = Field(
        default="chat", description="a chat message, or 'Question: ...' and 'Answer:' as plain text"
    )
    instruction: str = Field(
        default="{question}\n\nThink step by step. End with a line '#### ' and the number alone.",
        description="the chat message; {question} becomes the problem",
    )

    @field_validator("instruction")
    @classmethod
    def _has_question(cls, value: str) -> str:
        return _with_placeholder(value, "{question}")


class QuestionAnsweringSpec(StrictModel):
    """Questions with short answers, with or without a text: SQuAD's and Natural Questions' formats."""

    type: Literal["question_answering"] = "question_answering"
    path: BuiltinOrPath = Field(default="builtin", description="builtin, or the file of held-out questions")
    train_path: FilePath | None = Field(default=None, description="the file of training questions")
    num_validation: int = Field(
        default=500, ge=0, description="the last so many questions of `train_path` are for validation"
    )
    metric: Literal["exact_match", "f1"] = Field(default="exact_match", description="the reward")
    mode: Literal["chat", "completion"] = Field(
        default="chat", description="a chat message, or 'Question: ...' and 'Answer:' as plain text"
    )
    instruction: str = Field(
        default="{question}\n\nAnswer with as few words as possible, or 'unanswerable' where the text does not say.",
        description="the chat message; {question} becomes the text, if any, and the question",
    )

    @field_validator("instruction")
    @classmethod
    def _has_question(cls, value: str) -> str:
        return _with_placeholder(value, "{question}")


def _with_placeholder(value: str, placeholder: str) -> str:
    if placeholder not in value:
        raise ValueError(f"instruction={value!r} lacks {placeholder}, where the question goes; add it")
    return value
