"""Near-duplicate texts: shingles, MinHash with locality-sensitive hashing, and the exact similarity.

MinHash only proposes pairs; each is checked with the exact Jaccard similarity of the two texts' shingles (of
their 32-bit hashes), so that no pair below the threshold counts. Bands are chosen so that of pairs at the
threshold itself at most MISSED go unproposed. Texts are canonical (words.py). datasketch is imported late.
Broder (1997); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3. Called by duplicates.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from polyray.config.curate import NearDuplicateSpec
from polyray.data.words import canonical_text

MISSED = 1e-3
SHINGLE_CHARS = 5
MIN_WORDS = 4
"""Shorter texts are compared exactly only."""
NUM_PERMUTATIONS = 128
_SEED = 1
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


def shingle_hashes(text: str) -> np.ndarray | None:
    """Sorted different 32-bit hashes of a text's shingles; None for one below MIN_WORDS words.

    A text with fewer characters than a shingle has is one shingle.
    """
    canonical = canonical_text(text)
    if len(canonical.split()) < MIN_WORDS:
        return None
    units = np.frombuffer(canonical.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    size = min(SHINGLE_CHARS, len(units))
    hashes = np.zeros(len(units) - size + 1, np.uint64)
    for at in range(size):  # a polynomial modulo 2^64 in the shingle's units
        hashes = hashes * _BASE + units[at : at + len(hashes)] + np.uint64(1)
    hashes ^= hashes >> np.uint64(33)
    hashes *= _MIX
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared over all, of two sorted arrays of different values."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def band_shape(threshold: float, num_permutations: int) -> tuple[int, int]:
    """(bands, rows per band): most rows with a chance of at most MISSED to miss a pair at `threshold`.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands.
    """
    best = (num_permutations, 1)
    for rows in range(2, num_permutations + 1):
        bands = num_permutations // rows
        if (1.0 - threshold**rows) ** bands <= MISSED:
            best = (bands, rows)
    return best


class SimilarTexts:
    """An index of texts by number, asked for those that are almost the same as one of them.

    Example:
        index = SimilarTexts(["the cat sat on the mat", "The cat sat on the mat!", "no"], NearDuplicateSpec())
        index.insert(0); index.similar_to(1)  # [0]
    """

    def __init__(self, texts: Sequence[str], spec: NearDuplicateSpec) -> None:
        from datasketch import MinHash, MinHashLSH

        self._spec = spec
        self._hashes = [shingle_hashes(text) for text in texts]
        self._empty: Any = MinHash(num_perm=NUM_PERMUTATIONS, seed=_SEED, hashfunc=int)
        shape = band_shape(spec.threshold, NUM_PERMUTATIONS)
        self._lsh: Any = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=shape)
        self._last: tuple[int, Any] = (-1, None)

    def insert(self, at: int) -> None:
        """Makes text number `at` findable, where it is long enough."""
        sketch = self._sketch(at)
        if sketch is not None:
            self._lsh.insert(at, sketch)

    def similar_to(self, at: int, known: Iterable[int] = ()) -> list[int]:
        """Numbers of the inserted texts almost the same as number `at`, ascending, without itself and `known`."""
        sketch = self._sketch(at)
        if sketch is None:
            return []
        skipped = {at, *known}
        own = self._hashes[at]
        assert own is not None
        return [
            other
            for other in sorted(self._lsh.query(sketch))
            if other not in skipped and self._is_similar(own, other)
        ]

    def _is_similar(self, own: np.ndarray, other: int) -> bool:
        hashes = self._hashes[other]
        assert hashes is not None
        shorter, longer = sorted((len(own), len(hashes)))
        return shorter >= self._spec.threshold * longer and jaccard(own, hashes) >= self._spec.threshold

    def _sketch(self, at: int) -> Any:
        """MinHash of a text; None if it is too short. The last one is remembered: it is asked for, then inserted."""
        if self._last[0] != at:
            hashes = self._hashes[at]
            sketch = None if hashes is None else self._empty.copy()
            if sketch is not None:
                sketch.update_batch(hashes)
            self._last = (at, sketch)
        return self._last[1]


def similar_groups(texts: Sequence[str], spec: NearDuplicateSpec) -> list[int]:
    """First similar text of every text, linked directly or through others (itself if none)."""
    index = SimilarTexts(texts, spec)
    leader = list(range(len(texts)))

    def find(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    for at in range(len(texts)):
        for other in index.similar_to(at):
            a, b = find(at), find(other)
            leader[max(a, b)] = min(a, b)
        index.insert(at)
    return [find(at) for at in range(len(texts))]
