"""Prompts and demonstrations as token ids: the one place where text meets a tokeniser.

Rollout workers, SFT and evaluation all encode here, so that a policy is sampled on exactly the tokens it was
trained on. Decoding is the engine's business.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from polyray.data.packing import TokenRow
from polyray.errors import DataError, boundary
from polyray.types import Prompt


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt.

    Messages go through the tokeniser's chat template with the generation prompt and without a thinking part;
    plain text gets the tokeniser's own special tokens (the embedded one puts a BOS in front). Raises
    DataError where the tokeniser has no chat template or cannot encode a character.
    """
    if prompt.messages is None:
        return _encode(tokenizer, prompt.text, prompt, add_special_tokens=True)
    if not tokenizer.chat_template:
        raise DataError(
            f"prompt {prompt.prompt_id!r} has messages, but the model's tokenizer has no chat template; "
            "use an instruction-tuned model, or write 'prompt' instead of 'messages'"
        )
    with boundary(DataError, f"chat template on the messages of prompt {prompt.prompt_id!r}"):
        rendered: Any = tokenizer.apply_chat_template(
            [dict(message) for message in prompt.messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
    return _encode(tokenizer, rendered, prompt, add_special_tokens=False)


def encode_demonstration(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: str, max_tokens: int | None = None
) -> TokenRow:
    """Prompt, response and end of sequence as one row. Raises DataError above `max_tokens`."""
    prompt_ids = encode_prompt(tokenizer, prompt)
    response_ids = _encode(tokenizer, response, prompt, add_special_tokens=False)
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise DataError(
            "the model's tokenizer has no end-of-sequence token; set eos_token in its tokenizer_config.json"
        )
    row = TokenRow((*prompt_ids, *response_ids, end), response_start=len(prompt_ids))
    if max_tokens is not None and len(row.token_ids) > max_tokens:
        raise DataError(
            f"prompt {prompt.prompt_id!r} with its response has {len(row.token_ids)} tokens, more than "
            f"max_tokens={max_tokens}; raise max_tokens or shorten the demonstration"
        )
    return row


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: Prompt, *, add_special_tokens: bool
) -> list[int]:
    # The embedded vocabulary holds single characters and no unknown token: others are refused, not dropped.
    with boundary(
        DataError, f"prompt {prompt.prompt_id!r}: the tokenizer of this model cannot encode {text!r}"
    ):
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
