"""Log-probability of a completion under a language model: a baseline that knows how usual a text is, no more.

NgramModel is trained here on words; causal language models are those of polyray.models. Both give the mean per
token, so that length does not enter twice. Called by scorers.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from polyray.config.reward_validation import CausalLmSpec
    from polyray.models.logprobs import Rows

BATCH_ROWS = 8
_TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_START, _END = "<s>", "</s>"


def word_tokens(text: str) -> list[str]:
    """Words in lower case and single signs: "It's ok!" -> ["it's", "ok", "!"]."""
    return _TOKEN.findall(text.lower())


class NgramModel:
    """Witten-Bell interpolation of n-grams up to `order` (Chen and Goodman 1999, section 2.5).

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)) with c(h) = how often h was followed by something,
    t(h) = by how many different tokens, h' = h without its first token. At the bottom every known token and
    one unknown share equally, so every text has a probability.
    """

    def __init__(self, texts: Iterable[str], order: int = 3) -> None:
        """Counts `texts`; raises ValueError for an order below 1."""
        if order < 1:
            raise ValueError(f"order={order} must be at least 1; 3 is usual")
        self._order = order
        self._counts: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            tokens = self._padded(text)
            for position in range(order - 1, len(tokens)):
                for length in range(order):
                    self._counts[tuple(tokens[position - length : position])][tokens[position]] += 1
        self._totals = {history: counts.total() for history, counts in self._counts.items()}

    def probability(self, token: str, history: Sequence[str]) -> float:
        """p(token | the last `order` - 1 tokens of `history`)."""
        value = 1.0 / (len(self._counts[()]) + 1)
        for length in range(min(self._order, len(history) + 1)):
            key = tuple(history[len(history) - length :])
            total = self._totals.get(key)
            if total is None:
                break  # longer histories were not seen either
            followers = self._counts[key]
            value = (followers[token] + len(followers) * value) / (total + len(followers))
        return value

    def mean_logprob(self, text: str) -> float:
        """Mean ln p over the tokens of `text` and its end."""
        tokens = self._padded(text)
        start = self._order - 1
        logs = [
            math.log(self.probability(tokens[position], tokens[position - start : position]))
            for position in range(start, len(tokens))
        ]
        return sum(logs) / len(logs)

    def _padded(self, text: str) -> list[str]:
        return [_START] * (self._order - 1) + word_tokens(text) + [_END]


class CausalLm:
    """Mean ln p(token | prompt, tokens before) of completions under a model in Hugging Face format."""

    def __init__(self, spec: CausalLmSpec) -> None:
        """Loads it on the CPU, or raises ConfigError."""
        from polyray.config.model import ModelSpec
        from polyray.models.base_files import base_fingerprint, resolve_model_dir
        from polyray.models.loading import load_base
        from polyray.models.tokenizer import load_tokenizer

        directory = resolve_model_dir(ModelSpec(path=spec.path))
        self.version = base_fingerprint(directory)
        self._spec = spec
        self._model = load_base(directory, spec.dtype)
        self._tokenizer: Any = load_tokenizer(directory)

    def mean_logprobs(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """[N] float64; NaN for a completion without a token."""
        values = np.full(len(completions), np.nan)
        rows = [self._tokens(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        scored = [at for at, (_, completion) in enumerate(rows) if completion]
        # Rows of similar length share a batch: padding costs as much as tokens.
        scored.sort(key=lambda at: len(rows[at][0]) + len(rows[at][1]))
        for start in range(0, len(scored), BATCH_ROWS):
            chosen = scored[start : start + BATCH_ROWS]
            values[chosen] = self._batch([rows[at] for at in chosen])
        return values

    def _tokens(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """A prompt has at least one token, which the first of the completion is predicted from."""
        before = self._encode(prompt)[-self._spec.max_prompt_tokens :]
        first = self._tokenizer.bos_token_id
        if not before:
            before = [self._tokenizer.eos_token_id if first is None else first]
        return before, self._encode(completion)[: self._spec.max_completion_tokens]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        import torch

        from polyray.models.logprobs import completion_logprobs

        with torch.inference_mode():
            logprobs_BT, _ = completion_logprobs(self._model, _padded_rows(rows))
        lengths_B = torch.tensor([len(completion) for _, completion in rows])
        return (logprobs_BT.double().sum(dim=1) / lengths_B).numpy()


def _padded_rows(rows: Sequence[tuple[list[int], list[int]]]) -> Rows:
    import torch

    from polyray.models.logprobs import Rows

    joined = [torch.tensor([*prompt, *completion]) for prompt, completion in rows]
    input_ids_BL: torch.Tensor = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
    return Rows(
        input_ids_BL,
        torch.tensor([len(prompt) for prompt, _ in rows]),
        torch.tensor([len(completion) for _, completion in rows]),
    )
