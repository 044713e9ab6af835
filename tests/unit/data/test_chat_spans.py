"""Trained tokens of a conversation, with a template short enough to check by hand."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from polyray.data.chat import encode_demonstration, encode_prompt
from polyray.data.token_rows import TokenRow
from polyray.errors import DataError
from polyray.learner.embedded import SPECIAL_TOKENS, build_tokenizer
from polyray.types import Prompt

PAD, BOS, EOS = range(3)
IDS = {char: index for index, char in enumerate("0123456789|abcdefgh>=UDLR", start=len(SPECIAL_TOKENS))}
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '>' if m['role'] == 'user' else '=' }}{{ m['content'] }}"
    "{{ eos_token }}|{% endfor %}{% if add_generation_prompt %}={% endif %}"
)
"""A turn is `>question<eos>|` or `=answer<eos>|`; the `|` after an end of turn stands for the newline."""
CLOSED = TURNS.replace("{{ eos_token }}|", "{{ eos_token }}")
MESSAGES = (
    {"role": "user", "content": "12"},
    {"role": "assistant", "content": "UD"},
    {"role": "user", "content": "3"},
)
PROMPT = Prompt("data.jsonl:7", "3", messages=MESSAGES)


def _tokenizer(template: str) -> PreTrainedTokenizerBase:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def _ids(text: str) -> list[int]:
    """`.` is the end of sequence."""
    return [EOS if char == "." else IDS[char] for char in text]


def _trained(row: TokenRow) -> list[int]:
    holes = {index for start, end in row.untrained for index in range(start, end)}
    return [row.token_ids[at] for at in range(row.response_start, len(row.token_ids)) if at not in holes]


def test_trained_tokens_are_the_last_turn_or_all_turns_of_the_assistant() -> None:
    tokenizer = _tokenizer(CLOSED)
    last = encode_demonstration(tokenizer, PROMPT, "LR")
    turns = encode_demonstration(tokenizer, PROMPT, "LR", trained_turns=(1,))
    assert list(last.token_ids) == list(turns.token_ids) == [BOS, *_ids(">12.=UD.>3.=LR.")]
    assert (_trained(last), last.num_targets) == (_ids("LR."), 3)
    assert (_trained(turns), turns.untrained, turns.num_targets) == (_ids("UD.LR."), ((9, 13),), 6)
    assert list(last.token_ids[: last.response_start]) == encode_prompt(tokenizer, PROMPT)


def test_white_space_after_a_turn_is_not_trained() -> None:
    # The vocabulary has no newline, so a row that encodes has left it out.
    tokenizer = _tokenizer(
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
    )
    row = encode_demonstration(tokenizer, Prompt("p", "12", messages=MESSAGES[:1]), "LR")
    assert list(row.token_ids) == _ids("12LR.")
    assert _trained(row) == _ids("LR.")


def test_template_without_an_end_of_turn_gets_the_end_of_sequence() -> None:
    row = encode_demonstration(build_tokenizer(), Prompt("p", "12", messages=MESSAGES[:1]), "LR")
    assert list(row.token_ids) == [BOS, *_ids("12LR.")]
    assert _trained(row) == _ids("LR.")
    marked = encode_demonstration(_tokenizer(TURNS), Prompt("p", "12", messages=MESSAGES[:1]), "LR")
    assert _trained(marked) == _ids("LR.|.")  # `|` is no special token: nothing says that the turn is over


def test_every_token_but_the_first_is_trained_without_completion_only() -> None:
    row = encode_demonstration(_tokenizer(CLOSED), PROMPT, "LR", completion_only=False)
    assert _trained(row) == _ids(">12.=UD.>3.=LR.")
    text = encode_demonstration(build_tokenizer(), Prompt("p", "12"), "LR", completion_only=False)
    assert _trained(text) == _ids("12LR.")


def test_template_that_rewrites_earlier_turns_is_refused() -> None:
    last_is_marked = (
        "{% for m in messages %}{{ '=' if loop.last and m['role'] == 'assistant' }}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    tokenizer = _tokenizer(last_is_marked)
    assert _trained(encode_demonstration(tokenizer, PROMPT, "LR")) == _ids("LR.")
    with pytest.raises(DataError, match=r"'data\.jsonl:7'.*\b1\b"):
        encode_demonstration(tokenizer, PROMPT, "LR", trained_turns=(1,))
