"""Similarity of texts in meaning: cosines of sentence embeddings.

A thin user of embedder.py, one encoder per process and device: the CPU, where it runs beside engines that own the
GPU, unless a reward replica has been given a GPU. Called by rewards and their distances, by the tasks without a
verifier, by checkers and by text metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyray.models.embedder import PACKAGED as PACKAGED
from polyray.models.embedder import shared_embedder


def embed_texts(encoder: str, texts: Sequence[str], device: str = "cpu") -> np.ndarray:
    """[G, dimension] float64 embeddings of length 1, computed on `device`. Raises ConfigError where the encoder
    cannot be loaded."""
    vectors = shared_embedder(encoder, device).encode(texts).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def cosine_similarity(encoder: str, a: str, b: str, device: str = "cpu") -> float:
    """Cosine of the angle between two texts' embeddings, in [-1, 1]; exactly 1 for equal texts."""
    if a == b:
        return 1.0
    first, second = embed_texts(encoder, (a, b), device)
    return float(np.clip(first @ second, -1.0, 1.0))
