"""Features of a prompt and a completion; the same formula for arrays and for tensors with gradients.

[p, c, p * c, p - c]  of the two unit embeddings: 4 * dimension numbers, then the explicit features
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from polyray.config.reward_model import FeatureName

BLOCKS = 4
"""Size of the head's input in multiples of the embeddings' dimension."""


def _share(text: str, is_kind: Callable[[str], bool]) -> float:
    return sum(map(is_kind, text)) / max(1, len(text))


EXPLICIT: dict[FeatureName, Callable[[str], float]] = {
    "log_characters": lambda text: math.log1p(len(text)),
    "log_words": lambda text: math.log1p(len(text.split())),
    "questions": lambda text: math.log1p(text.count("?")),
    "digits": lambda text: _share(text, str.isdigit),
    "capitals": lambda text: _share(text, str.isupper),
}
"""Features of the completion alone. Counts are logarithms, the other two are shares of its characters."""


def explicit_features(names: Sequence[FeatureName], completions: Sequence[str]) -> np.ndarray:
    """[N, len(names)] float32."""
    rows = [[EXPLICIT[name](text) for name in names] for text in completions]
    return np.array(rows, dtype=np.float32).reshape(len(completions), len(names))


def text_features(
    prompt_ND: Any, completion_ND: Any, explicit_NX: Any, concatenate: Callable[..., Any]
) -> Any:
    """[N, 4 * D + X] by `concatenate` (numpy.concatenate or torch.cat) along the last axis."""
    parts = [prompt_ND, completion_ND, prompt_ND * completion_ND, prompt_ND - completion_ND, explicit_NX]
    return concatenate(parts, -1)
