"""Distances within a group: from its classes, the task's own distance, or the texts themselves.

    group_distances   one group as a reward sees it: items and scores; wrong completions earn no diversity
    text_distances    texts alone, by meaning (embedding) or by wording (ngram)

The same for RL, for polychromic SFT, and for evaluation; the sources are those of
config.reward.DiversitySpec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyray.config.reward import DiversitySource, DiversitySpec
from polyray.errors import RewardError
from polyray.metrics.tokens import check_order, check_texts, ngrams, words
from polyray.models.text_encoder import embed_texts
from polyray.rewards.base import Judge, Score, ScoreItem
from polyray.types import WRONG_CLASS, Prompt

TASK_DISTANCE = DiversitySpec(source="task_distance")


def group_distances(
    task: Judge,
    diversity: DiversitySpec,
    items: Sequence[ScoreItem],
    scores: Sequence[Score],
    device: str = "cpu",
) -> list[list[float]]:
    """[G][G] in [0, 1], symmetric, zero diagonal.

    task_class: 1 between completions of two different classes. task_distance: `task.distance`. embedding and
    ngram: `text_distances`. An unscored completion is at distance 0 from all, and so is one of WRONG_CLASS
    except by task_distance, where the task decides. Distance 0 means "earns no diversity" to a mean of distances
    only; kernels leave such completions out by their class (algorithms.floored_kernel). An encoder runs on `device`.
    Raises RewardError where the task's distance leaves [0, 1].
    """
    matrix = [[0.0] * len(items) for _ in items]
    may_be_wrong = diversity.source == "task_distance"
    counted = [
        at
        for at, score in enumerate(scores)
        if score.score is not None and (may_be_wrong or score.class_id != WRONG_CLASS)
    ]
    if diversity.source in ("embedding", "ngram"):
        texts = [items[at].completion for at in counted]
        by_text = text_distances(diversity.source, texts, diversity.encoder, diversity.n, device)
    known: dict[tuple[str, str], float] = {}  # policies repeat themselves: equal pairs are computed once
    for place, row in enumerate(counted):
        for other, column in enumerate(counted[:place]):
            if diversity.source == "task_class":
                distance = float(scores[row].class_id != scores[column].class_id)
            elif diversity.source == "task_distance":
                pair = (items[row].completion, items[column].completion)
                if pair not in known:
                    known[pair] = _task_distance(task, items[row].as_prompt(), *pair)
                distance = known[pair]
            else:
                distance = float(by_text[place, other])
            matrix[row][column] = matrix[column][row] = distance
    return matrix


def text_distances(
    source: DiversitySource, texts: Sequence[str], encoder: str = "packaged", n: int = 4, device: str = "cpu"
) -> np.ndarray:
    """[G, G] float64 distances between texts in [0, 1]: symmetric, zero diagonal, 0 between equal texts.

    embedding: 1 - cosine of the sentence embeddings, clipped to [0, 1] (opposite directions count as no
    further apart than unrelated ones). ngram: 1 - Jaccard similarity of the sets of n-grams of 13a tokens
    (metrics/tokens.py); a text of fewer than n tokens is one gram as a whole. The Jaccard similarity is a
    kernel (positive semidefinite), the clipped cosine nearly always.

    Args:
        source: embedding or ngram.
        texts: of one prompt, any number of them.
        encoder: of embedding: packaged, a directory or a hub name.
        n: of ngram.
        device: of embedding: where the encoder runs.

    Raises:
        ValueError: another source, n < 1, or `texts` is one string.
        ConfigError: the encoder cannot be loaded.
    """
    check_texts(texts, at_least=0)
    check_order(n)
    if source == "embedding":
        return _embedding_distances(encoder, texts, device)
    if source == "ngram":
        return _ngram_distances(texts, n)
    raise ValueError(f"source={source!r} is none of embedding, ngram: the other sources need a task")


def _embedding_distances(encoder: str, texts: Sequence[str], device: str) -> np.ndarray:
    # Equal texts are embedded once, so that their distance is exactly 0.
    places: dict[str, int] = {}
    index_G = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    if not len(texts):
        return np.zeros((0, 0))
    return cosine_distances(embed_texts(encoder, list(places), device))[np.ix_(index_G, index_G)]


def cosine_distances(units_GD: np.ndarray) -> np.ndarray:
    """[G, G] float64 of `text_distances` by embedding, from embeddings of length 1 of different texts."""
    units = units_GD.astype(np.float64, copy=False)
    distances = np.clip(1.0 - units @ units.T, 0.0, 1.0)
    distances = np.maximum(distances, distances.T)  # matrix products are symmetric up to rounding only
    np.fill_diagonal(distances, 0.0)
    return distances


def _ngram_distances(texts: Sequence[str], n: int) -> np.ndarray:
    grams = [_grams(text, n) for text in texts]
    distances = np.zeros((len(texts), len(texts)))
    for row, first in enumerate(grams):
        for column, second in enumerate(grams[:row]):
            distance = 1.0 - len(first & second) / len(first | second)
            distances[row, column] = distances[column, row] = distance
    return distances


def _grams(text: str, n: int) -> frozenset[tuple[str, ...]]:
    """n-grams of a text, never empty: a short text is one gram, the empty text the empty one."""
    tokens = words(text)
    return frozenset(ngrams(tokens, n)) if len(tokens) >= n else frozenset({tuple(tokens)})


def _task_distance(task: Judge, prompt: Prompt, first: str, second: str) -> float:
    distance = float(task.distance(prompt, first, second))
    if not 0.0 <= distance <= 1.0:
        raise RewardError(f"distance {distance} is outside [0, 1]; correct {type(task).__name__}.distance")
    return distance
