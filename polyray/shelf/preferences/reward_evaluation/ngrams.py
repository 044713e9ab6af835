"""Log-probability of a completion under n-grams of words: a baseline that knows how usual a text is, no more.

It is the mean per token, so that length does not enter twice. Called by scorers.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

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
