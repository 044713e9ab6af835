"""Token lengths are those of the rows that training sees."""

from __future__ import annotations

import pytest

from polyray.config.curate import RowsSpec
from polyray.errors import DataError
from polyray.learner.embedded import build_tokenizer
from polyray.shelf.preferences.curation.tokens import TokenLengths, token_lengths
from tests.unit.shelf.preferences.curation.builders import record

RECORDS = [record("a", "RU", prompt="37"), record("b", "LDR", prompt="37"), record("c", "U", prompt="37|b1")]
THINKING = (
    "{{ messages[0]['content'] }}{% if messages|length > 1 %}>{{ messages[1]['content'] }}{% endif %}"
    "{% if add_generation_prompt %}>{% if enable_thinking is not defined or enable_thinking %}0000{% endif %}"
    "{% endif %}"
)


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_token_lengths_include_template_and_end_of_turn(mode: str) -> None:
    spec = RowsSpec.model_validate({"mode": mode, "instruction": "{source}"})
    found = token_lengths(RECORDS, spec, build_tokenizer())
    assert found == {"a": TokenLengths(3, 6), "b": TokenLengths(3, 7), "c": TokenLengths(6, 8)}  # BOS and EOS


def test_token_lengths_render_the_template_without_thinking() -> None:
    tokenizer = build_tokenizer()
    spec = RowsSpec(instruction="{source}")
    tokenizer.chat_template = THINKING
    assert token_lengths(RECORDS[:1], spec, tokenizer) == {"a": TokenLengths(3, 6)}
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        token_lengths(RECORDS, spec, tokenizer)
