"""Tokenisation of prompts and demonstrations with the embedded model's tokenizer."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from polyray.data.chat import check_can_end, closing_token, encode_demonstration, encode_prompt, stop_tokens
from polyray.errors import ConfigError, DataError
from polyray.learner.embedded import SPECIAL_TOKENS, build_tokenizer
from polyray.types import Prompt

PAD, BOS, EOS = range(3)
ALPHABET = {char: index for index, char in enumerate("0123456789|abcdefgh>=UDLR", start=len(SPECIAL_TOKENS))}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def _ids(text: str) -> list[int]:
    return [ALPHABET[char] for char in text]


def test_encode_prompt_uses_bos_or_the_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode_prompt(tokenizer, Prompt("p", "37|b1>e4=")) == [BOS, *_ids("37|b1>e4=")]
    messages = ({"role": "system", "content": "37|"}, {"role": "user", "content": "b1>e4="})
    assert encode_prompt(tokenizer, Prompt("p", "b1>e4=", messages=messages)) == [BOS, *_ids("37|b1>e4=")]
    with pytest.raises(DataError, match=r"'p'.*'2 x 2'"):
        encode_prompt(tokenizer, Prompt("p", "2 x 2"))
    other = build_tokenizer()
    other.chat_template = (
        "{% if add_generation_prompt and not enable_thinking %}>{% endif %}{{ messages[0]['content'] }}"
    )
    assert encode_prompt(other, QUESTION) == _ids(">7"), "a reply without thinking"
    other.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        encode_prompt(other, QUESTION)


def test_encode_demonstration_ends_with_eos_and_names_one_that_is_too_long(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    row = encode_demonstration(tokenizer, Prompt("p", "37|b1>e4="), "RU", 13)
    assert row.token_ids == (BOS, *_ids("37|b1>e4="), *_ids("RU"), EOS)
    assert row.token_ids[row.response_start :] == (*_ids("RU"), EOS)
    with pytest.raises(DataError, match=r"'p'.*\b13\b.*max_tokens=12"):
        encode_demonstration(tokenizer, Prompt("p", "37|b1>e4="), "RU", 12)


QUESTION = Prompt("p", "7", messages=({"role": "user", "content": "7"},))


def _closing_with(end: str) -> PreTrainedTokenizerBase:
    """A tokenizer of a base model: its template closes a turn with `<im_end>`, its end of sequence is `<eos>`."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<im_end>"]})
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m['content'] }}}}{end}{{% endfor %}}"
    return tokenizer


def test_stop_tokens_hold_the_last_token_that_sft_trains() -> None:
    tokenizer = _closing_with("<im_end>")
    row = encode_demonstration(tokenizer, QUESTION, "RU")
    assert stop_tokens(tokenizer, QUESTION) == row.token_ids[-1:] == (28,)
    assert tokenizer.eos_token_id == EOS


def test_stop_tokens_of_texts_and_of_other_templates_are_none() -> None:
    assert stop_tokens(_closing_with("<im_end>"), Prompt("p", "7")) == ()
    assert closing_token(_closing_with("<eos>")) == closing_token(_closing_with("<eos>\n")) == EOS
    assert closing_token(_closing_with("|")) is None
    bare = build_tokenizer()
    bare.chat_template = None
    for tokenizer in (_closing_with("<eos>"), _closing_with("|"), build_tokenizer(), bare):
        assert stop_tokens(tokenizer, QUESTION) == ()


def test_check_can_end_refuses_a_model_that_never_stops() -> None:
    tokenizer = _closing_with("<im_end>")
    check_can_end(tokenizer, 29)
    check_can_end(tokenizer, None)
    with pytest.raises(ConfigError, match=r"id 28\b.*\b28 tokens"):
        check_can_end(tokenizer, 28)
    tokenizer.eos_token = None
    check_can_end(tokenizer, 29)
    endless = _closing_with("|")
    endless.eos_token = None
    with pytest.raises(ConfigError, match="eos_token"):
        check_can_end(endless, 29)
