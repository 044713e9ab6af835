"""Token lengths are those of the rows that training sees, and no thinking part is asked for."""

from __future__ import annotations

import pytest

from polyray.config.curate import RowsSpec
from polyray.errors import DataError
from polyray.learner.embedded import build_tokenizer
from polyray.shelf.preferences.curation.tokens import TokenLengths, token_lengths
from tests.unit.shelf.preferences.curation.builders import record

RECORDS = [record("a", "RU", prompt="37"), record("b", "LDR", prompt="37"), record("c", "U", prompt="37|b1")]


def test_lengths_with_template_and_end_of_turn() -> None:
    tokenizer = build_tokenizer()
    expected = {"a": TokenLengths(3, 6), "b": TokenLengths(3, 7), "c": TokenLengths(6, 8)}  # BOS and EOS
    for mode in ("chat", "completion"):
        spec = RowsSpec.model_validate({"mode": mode, "instruction": "{source}"})
        assert token_lengths(RECORDS, spec, tokenizer) == expected
    longer = RowsSpec(mode="completion", instruction="0|{source}|")
    assert token_lengths(RECORDS, longer, tokenizer)["a"] == TokenLengths(6, 9)


def test_template_is_rendered_without_thinking() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{{ messages[0]['content'] }}{% if messages|length > 1 %}>{{ messages[1]['content'] }}{% endif %}"
        "{% if add_generation_prompt %}>{% if enable_thinking is not defined or enable_thinking %}0000{% endif %}"
        "{% endif %}"
    )
    assert token_lengths(RECORDS[:1], RowsSpec(instruction="{source}"), tokenizer) == {
        "a": TokenLengths(3, 6)
    }


def test_chat_rows_need_a_template() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        token_lengths(RECORDS, RowsSpec(instruction="{source}"), tokenizer)
