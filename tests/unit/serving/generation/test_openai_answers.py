"""Tokens of answers: their texts, places and alternatives, with a tokenizer that drops the space of a first word."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from polyray.serving.generation.openai_answers import ChatShape, CompletionShape, Sampled, TokenTexts
from polyray.types import TextDelta

WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    "▁France",
    "▁is",
    "▁Paris",
    "Paris",
]
WORDS += ["▁.", ".", "a", "▁a"]
IDS = {word: token for token, word in enumerate(WORDS)}
EMOJI = [IDS[f"<0x{byte:02X}>"] for byte in "😀".encode()]
PARIS, STOP = IDS["▁Paris"], IDS["▁."]


@pytest.fixture(scope="module")
def texts() -> TokenTexts:
    """As Llama 2 and Mistral 7B write: words begin with ▁, unknown characters are bytes."""
    core = Tokenizer(models.BPE(vocab=IDS, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(steps)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    assert tokenizer.decode([PARIS]) == "Paris", "alone it loses its space"
    return TokenTexts(tokenizer)


def sampled(text: str, ids: list[int], alternatives: list[tuple[tuple[int, float], ...]]) -> Sampled:
    return Sampled(text, ids, [-1.0] * len(ids), alternatives, "length")


def test_tokens_join_to_the_text_and_keep_their_best_alternatives(texts: TokenTexts) -> None:
    rows = [((PARIS, -0.1), (IDS["Paris"], -3.0)), ((IDS["."], -0.2), (IDS["a"], -3.0))]
    found = CompletionShape(texts, 2).choice(0, sampled(" Paris .", [PARIS, STOP], rows))["logprobs"]
    assert found["tokens"] == [" Paris", " ."] and found["text_offset"] == [0, 6]
    first, second = found["top_logprobs"]
    assert list(first.items()) == [(" Paris", -0.1), ("Paris", -3.0)]
    assert list(second.items()) == [(".", -0.2), ("a", -3.0), (" .", -1.0)], "the sampled one as well"
    halves = [((EMOJI[0], -0.1), (EMOJI[1], -4.0))]
    (top,) = CompletionShape(texts, 2).choice(0, sampled("", EMOJI[:1], halves))["logprobs"]["top_logprobs"]
    assert top == {"\N{REPLACEMENT CHARACTER}": -0.1}


def test_chunks_have_the_offsets_of_the_whole_answer(texts: TokenTexts) -> None:
    """An engine holds text back that may become a stop string."""
    shape, ids = CompletionShape(texts, 0), [PARIS, STOP, PARIS]
    whole = shape.choice(0, sampled(" Paris . Paris", ids, []))["logprobs"]["text_offset"]
    pieces = ["", " Par", "is . Paris"]
    chunks = [
        shape.delta(1, TextDelta(text, (token,), (-1.0,), (), None))
        for text, token in zip(pieces, ids, strict=True)
    ]
    assert [offset for chunk in chunks for offset in chunk["logprobs"]["text_offset"]] == whole == [0, 6, 8]
    assert shape.delta(2, TextDelta("", (STOP,), (-1.0,), (), None))["logprobs"]["text_offset"] == [0]


def test_echo_counts_no_text_for_tokens_that_the_prompt_does_not_show(texts: TokenTexts) -> None:
    prompt, hidden = [IDS["<s>"], IDS["▁France"], IDS["▁is"]], [IDS["<s>"]]
    whole = Sampled(" Paris", [PARIS], [-1.0], [], "length", (-1.0, -1.0), ((), ()))
    found = CompletionShape(texts, 0).echo(0, whole, " France is", prompt, hidden)
    assert found["text"] == " France is Paris"
    logprobs = found["logprobs"]
    assert logprobs["tokens"] == ["<s>", " France", " is", " Paris"]
    assert [found["text"][at:] for at in logprobs["text_offset"][1:]] == [
        " France is Paris",
        " is Paris",
        " Paris",
    ]


def test_chat_has_no_bytes_for_parts_of_a_character(texts: TokenTexts) -> None:
    found = ChatShape(texts, True).choice(0, sampled("😀 Paris", [*EMOJI, PARIS], []))["logprobs"]["content"]
    assert [entry["bytes"] for entry in found] == [None] * 4 + [list(b" Paris")]
