"""Tokenisation of prompts and demonstrations with the embedded model's tokenizer."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from polyray.data.chat import encode_demonstration, encode_prompt
from polyray.errors import DataError
from polyray.models.embedded import SPECIAL_TOKENS, build_tokenizer
from polyray.types import Prompt

PAD, BOS, EOS = range(3)
ALPHABET = {char: index for index, char in enumerate("0123456789|abcdefgh>=UDLR", start=len(SPECIAL_TOKENS))}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def _ids(text: str) -> list[int]:
    return [ALPHABET[char] for char in text]


def test_plain_prompts_begin_with_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode_prompt(tokenizer, Prompt("p", "37|b1>e4=")) == [BOS, *_ids("37|b1>e4=")]


def test_messages_go_through_the_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = ({"role": "system", "content": "37|"}, {"role": "user", "content": "b1>e4="})
    assert encode_prompt(tokenizer, Prompt("p", "b1>e4=", messages=messages)) == [BOS, *_ids("37|b1>e4=")]


def test_templates_are_asked_for_a_reply_without_thinking(tokenizer: PreTrainedTokenizerBase) -> None:
    other = build_tokenizer()
    other.chat_template = (
        "{% if add_generation_prompt and not enable_thinking %}>{% endif %}{{ messages[0]['content'] }}"
    )
    assert encode_prompt(other, Prompt("p", "7", messages=({"role": "user", "content": "7"},))) == _ids(">7")


def test_demonstrations_end_with_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode_demonstration(tokenizer, Prompt("p", "37|b1>e4="), "RU")
    assert row.token_ids == (BOS, *_ids("37|b1>e4="), *_ids("RU"), EOS)
    assert row.token_ids[row.response_start :] == (*_ids("RU"), EOS)


def test_too_long_a_demonstration_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(encode_demonstration(tokenizer, Prompt("p", "37|b1>e4="), "RU", 13).token_ids) == 13
    with pytest.raises(DataError, match="'p' with its response has 13 tokens, more than max_tokens=12"):
        encode_demonstration(tokenizer, Prompt("p", "37|b1>e4="), "RU", 12)


def test_unknown_characters_are_refused_not_dropped(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="prompt 'p': the tokenizer of this model cannot encode '2 x 2'"):
        encode_prompt(tokenizer, Prompt("p", "2 x 2"))


def test_messages_need_a_chat_template() -> None:
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        encode_prompt(bare, Prompt("p", "7", messages=({"role": "user", "content": "7"},)))
