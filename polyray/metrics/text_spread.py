"""Diversity of words in the texts of one prompt. Used by rounds on fixed prompts, in RL and in SFT."""

from __future__ import annotations

import math
from collections.abc import Sequence

from polyray.metrics import distinct_n, self_bleu

ORDERS = (1, 2, 3)


def text_spread(texts: Sequence[str]) -> dict[str, float]:
    """distinct_1 to distinct_3 and, of at least two texts, self_bleu; without what such texts do not have."""
    values = {f"distinct_{n}": distinct_n(texts, n) for n in ORDERS}
    if len(texts) > 1:
        values["self_bleu"] = self_bleu(texts)
    return {name: value for name, value in values.items() if not math.isnan(value)}
