"""Token lengths of prompts and completions for a model, with its chat template and without a thinking part.

Called by pipeline.py with the model's tokenizer; encoding is polyray/data/chat.py, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyray.config.curate import RowsSpec
from polyray.shelf.preferences.curation.rows import as_prompt
from polyray.shelf.preferences.engagement import EngagementRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Token lengths of one record.

    Example:
        TokenLengths(prompt=61, total=80)
    """

    prompt: int
    """Tokens of the prompt, with the template's generation prompt."""
    total: int
    """Tokens in all, with the completion and the end of the turn."""


def token_lengths(
    records: Sequence[EngagementRecord], spec: RowsSpec, tokenizer: PreTrainedTokenizerBase
) -> dict[str, TokenLengths]:
    """record_id -> lengths. Raises DataError for a tokenizer without a chat template where one is needed."""
    from polyray.data.chat import encode_demonstration, encode_prompt

    lengths: dict[str, TokenLengths] = {}
    of_prompt: dict[str, int] = {}
    for record in records:
        prompt = as_prompt(record, spec)
        if prompt.text not in of_prompt:
            of_prompt[prompt.text] = len(encode_prompt(tokenizer, prompt))
        row = encode_demonstration(tokenizer, prompt, record.completion)
        lengths[record.record_id] = TokenLengths(of_prompt[prompt.text], len(row.token_ids))
    return lengths
