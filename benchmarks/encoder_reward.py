"""The reward that `benchmarks reward` serves unless it is given a trained one: the real encoder, a random head.

score = logistic(w . (embedding of the prompt * embedding of the completion)); read by PythonReward in a replica.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polyray.models.embedder import shared_embedder

_STEEPNESS = 40.0


def score(items: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One score per item; equal prompts of a call are embedded once."""
    embedder = shared_embedder("packaged")
    vectors = embedder.encode([item["prompt"] for item in items] + [item["completion"] for item in items])
    prompts, completions = vectors[: len(items)], vectors[len(items) :]
    weights = np.random.default_rng(0).standard_normal(vectors.shape[1]).astype(np.float32)
    # Row by row: a matrix product may sum in another order for another number of rows.
    logits = [
        float(np.sum(weights * prompt * text)) for prompt, text in zip(prompts, completions, strict=True)
    ]
    return [{"score": float(1.0 / (1.0 + np.exp(-_STEEPNESS * logit))), "class": 0} for logit in logits]
