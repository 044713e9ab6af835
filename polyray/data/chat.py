"""Prompts and demonstrations as token ids: the one place where text meets a tokeniser.

Rollout workers, SFT and evaluation all encode here, so that a policy is sampled on exactly the tokens it was
trained on. Decoding is the engine's business.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polyray.data.token_rows import TokenRow
from polyray.errors import ConfigError, DataError, boundary
from polyray.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_SHOWN = 80
"""Characters of a prompt that an error shows."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt.

    Messages go through the tokeniser's chat template with the generation prompt and without a thinking part;
    plain text gets the tokeniser's own special tokens (the embedded one puts a BOS in front). Raises
    DataError where the tokeniser has no chat template or cannot encode a character.
    """
    if prompt.messages is None:
        return _encode(tokenizer, prompt.text, prompt, add_special_tokens=True)
    return _encode(tokenizer, _render(tokenizer, prompt, prompt.messages, True), prompt)


def stop_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Token ids, beside the end of sequence, that end a completion of this prompt.

    That is the token with which the chat template closes the assistant's turn, because demonstrations of messages are
    trained to end with it. Base models often have a template with a closing token other than their end of sequence.
    """
    closing = None if prompt.messages is None else closing_token(tokenizer)
    return () if closing is None or closing == tokenizer.eos_token_id else (closing,)


@functools.lru_cache(maxsize=8)
def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which the chat template closes an assistant's turn; None where it writes none."""
    if not tokenizer.chat_template:
        return None
    turns = ({"role": "user", "content": "1"}, {"role": "assistant", "content": "2"})
    rendered = _render(tokenizer, Prompt("closing token", "1", messages=turns[:1]), turns, False).rstrip()
    found = [
        (len(token.content), number)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and rendered.endswith(token.content)
    ]
    return max(found)[1] if found else None


def check_can_end(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> None:
    """Raises ConfigError where no completion of this model could end before its length limit.

    `vocabulary`: the number of tokens that the model knows; None where its configuration does not say.
    """
    ends = {
        "end of sequence": tokenizer.eos_token_id,
        "closing token of the chat template": closing_token(tokenizer),
    }
    for name, token in ends.items():
        if isinstance(token, int) and vocabulary is not None and token >= vocabulary:
            raise ConfigError(
                f"the tokenizer's {name} has the id {token}, but the model knows {vocabulary} tokens only: no "
                "completion can end; use the tokenizer that belongs to the model"
            )
    if not any(isinstance(token, int) for token in ends.values()):
        raise ConfigError(
            "the model's tokenizer has no end-of-sequence token, and its chat template closes a turn with no special "
            "token: no completion can end; set eos_token in its tokenizer_config.json"
        )


def encode_demonstration(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    response: str,
    max_tokens: int | None = None,
    *,
    trained_turns: Sequence[int] = (),
    completion_only: bool = True,
) -> TokenRow:
    """Prompt, response and end of turn as one row.

    Messages are rendered with the chat template; what it writes between the generation prompt and the end of
    the assistant's turn is trained. A text, or a template that does not mark the end of a turn, gets the end
    of sequence. `trained_turns` are the messages of the prompt that are trained as well; without
    `completion_only` all tokens but the first are. Raises DataError above `max_tokens`, and where the
    template writes a conversation otherwise than its beginning.
    """
    if prompt.messages is None:
        prompt_ids = encode_prompt(tokenizer, prompt)
        reply_ids = _encode(tokenizer, response, prompt)
        parts = [(prompt_ids, False), ([*reply_ids, _end_of_sequence(tokenizer)], True)]
    else:
        reply = {"role": "assistant", "content": response}
        parts = _conversation_parts(tokenizer, prompt, (*prompt.messages, reply), trained_turns)
    row = _join(parts, completion_only)
    if max_tokens is not None and len(row.token_ids) > max_tokens:
        raise DataError(
            f"prompt {prompt.prompt_id!r} with its response has {len(row.token_ids)} tokens, more than "
            f"max_tokens={max_tokens}; raise max_tokens, shorten the demonstration, or (SFT) set too_long"
        )
    return row


def _conversation_parts(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    messages: Sequence[Message],
    trained_turns: Sequence[int],
) -> list[tuple[list[int], bool]]:
    """(token ids, trained) of consecutive pieces of the rendered conversation.

    Pieces are encoded alone, as the prompt is when the policy is sampled: no token spans two of them.
    """
    last = len(messages) - 1
    rendered = _render(tokenizer, prompt, messages, False)
    parts: list[tuple[list[int], bool]] = []
    done = 0
    for turn in (*trained_turns, last):
        start = _prefix_length(tokenizer, prompt, rendered, messages[:turn], True)
        text = (
            rendered[start:]
            if turn == last
            else rendered[start : _prefix_length(tokenizer, prompt, rendered, messages[: turn + 1], False)]
        )
        marked = _until_end_of_turn(tokenizer, text)
        text = text if marked is None else marked
        ids = _encode(tokenizer, text, prompt)
        if turn == last and marked is None:
            ids.append(_end_of_sequence(tokenizer))
        parts += [(_encode(tokenizer, rendered[done:start], prompt), False), (ids, True)]
        done = start + len(text)
    return parts


def _until_end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The turn without the white space after its closing special token; None where it has no such token."""
    stripped = text.rstrip()
    specials = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return stripped if specials and stripped.endswith(specials) else None


def _prefix_length(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    rendered: str,
    messages: Sequence[Message],
    add_generation_prompt: bool,
) -> int:
    prefix = _render(tokenizer, prompt, messages, add_generation_prompt)
    if not rendered.startswith(prefix):
        same = next(
            (at for at, pair in enumerate(zip(rendered, prefix, strict=False)) if pair[0] != pair[1]),
            len(rendered),
        )
        raise DataError(
            f"prompt {prompt.prompt_id!r}: the chat template writes the first {len(messages)} messages "
            f"differently when more follow ({prefix[same : same + 30]!r} against "
            f"{rendered[same : same + 30]!r}), so the assistant's turn cannot be told from the rest; use "
            "data.train_on=last_turn, or a template that only appends to a conversation"
        )
    return len(prefix)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    messages: Sequence[Message],
    add_generation_prompt: bool,
) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            f"prompt {prompt.prompt_id!r} has messages, but the model's tokenizer has no chat template; "
            "use an instruction-tuned model, or write 'prompt' instead of 'messages'"
        )
    with boundary(DataError, f"chat template on the messages of prompt {prompt.prompt_id!r}"):
        rendered: Any = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
        )
    return rendered


def _join(parts: Sequence[tuple[list[int], bool]], completion_only: bool) -> TokenRow:
    token_ids = tuple(token for ids, _ in parts for token in ids)
    if not completion_only:
        return TokenRow(token_ids, response_start=1)
    holes: list[tuple[int, int]] = []
    at = 0
    for ids, trained in parts:
        if not trained and ids:
            holes.append((at, at + len(ids)))
        at += len(ids)
    start = holes.pop(0)[1] if holes and holes[0][0] == 0 else 1
    return TokenRow(token_ids, start, tuple(holes))


def _end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError(
            "the model's tokenizer has no end-of-sequence token; set eos_token in its tokenizer_config.json"
        )
    return end


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: Prompt, *, add_special_tokens: bool = False
) -> list[int]:
    # The embedded vocabulary holds single characters and no unknown token: others are refused, not dropped.
    with boundary(
        DataError, f"prompt {prompt.prompt_id!r}: the tokenizer of this model cannot encode {_short(text)!r}"
    ):
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def _short(text: str) -> str:
    """The beginning, for errors."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
