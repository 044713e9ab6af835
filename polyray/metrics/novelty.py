"""NoveltyBench's utility_k: value of k answers for a user who wants none twice.

utility_k (arXiv 2504.05228) on a partition of one prompt's completions into classes, and the
benchmark's greedy partition with its rule that needs no model. Not here: classes from embeddings or a judge (the
caller hands in `same`), and the benchmark's own classifier and reward model. Called by the tasks without a
verifier and by evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import check_set_size, finite_vector, integer_vector
from polyray.types import WRONG_CLASS

UNIGRAM_THRESHOLD = 0.458
"""ROUGE-1 F above which NoveltyBench's unigram rule calls two texts equivalent."""
SHORT_TEXT_WORDS = 5
PATIENCE = 0.8
"""The chance that a user who has seen i answers looks at the next one."""

_ROUGE_WORD = re.compile("[a-z0-9]+")


def greedy_partition(texts: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """Classes 0, 1, ... in order of first appearance; each text joins the first class with an equal first member.

    `same(first_member, text)` need not be transitive: only first members are ever compared, so the result depends
    on the order of the texts, as the benchmark's does.
    """
    first_members: list[str] = []
    classes: list[int] = []
    for text in texts:
        found = next((at for at, first in enumerate(first_members) if same(first, text)), len(first_members))
        if found == len(first_members):
            first_members.append(text)
        classes.append(found)
    return classes


def rouge_1_f(a: str, b: str) -> float:
    """F1 of the overlap of words counted with multiplicity; words are runs of a-z and 0-9 in lower case.

    These are ROUGE's own words (Lin 2004), without stemming: letters outside a-z split words, and texts without
    any word have no overlap with anything.
    """
    counts_a, counts_b = _rouge_counts(a), _rouge_counts(b)
    total = counts_a.total() + counts_b.total()
    return 2.0 * (counts_a & counts_b).total() / total if total else 0.0


def unigram_equivalent(a: str, b: str, threshold: float = UNIGRAM_THRESHOLD) -> bool:
    """Whether two texts are the same answer, by their words alone.

    Two texts of at most 5 words each (split at white space, lower case): at least half as many different
    common words as the longer one has words. Longer ones: ROUGE-1 F above `threshold`. Equal texts are
    equivalent in any script. The benchmark applies the short rule with its classifier and ROUGE alone in its
    unigram mode; ROUGE alone calls "Paris." and "Paris, of course" different.
    """
    words_a, words_b = a.lower().split(), b.lower().split()
    if words_a == words_b:
        return True
    longest = max(len(words_a), len(words_b))
    if longest <= SHORT_TEXT_WORDS:
        return 2 * len(set(words_a) & set(words_b)) >= longest
    return rouge_1_f(a, b) > threshold


def utility_k(
    classes_G: npt.ArrayLike, scores_G: npt.ArrayLike, patience: float = PATIENCE, *, k: int | None = None
) -> float:
    """Value of the first k answers for a user who loses patience and wants no answer twice.

    (1 - p) / (1 - p^k) times the sum over i = 1..k of p^(i-1) u_i where class i is new, else 0.

    Args:
        classes_G: [G] whole numbers; a sample of class -1 is worth nothing.
        scores_G: [G] u, on any scale (NoveltyBench: 1 to 10); the result has the same.
        patience: p in [0, 1]; 0 looks at the first answer only, 1 is the plain mean.
        k: how many answers are looked at; all by default.

    Raises:
        ValueError: k > G, different lengths, NaN, p outside [0, 1].
    """
    classes = integer_vector(classes_G, "classes_G")
    scores = finite_vector(scores_G, "scores_G")
    if len(scores) != len(classes):
        raise ValueError(
            f"scores_G has {len(scores)} entries but classes_G {len(classes)}; give one per sample"
        )
    if not 0 <= patience <= 1:
        raise ValueError(f"patience={patience} must lie in [0, 1]")
    size = len(classes) if k is None else k
    check_set_size(size, len(classes), f"classes_G has {len(classes)} samples; draw more or lower k")
    weights = float(patience) ** np.arange(size)
    _, first_places = np.unique(classes[:size], return_index=True)
    is_new = np.zeros(size, dtype=bool)
    is_new[first_places] = True
    worth = np.where(is_new & (classes[:size] != WRONG_CLASS), scores[:size], 0.0)
    return float(weights @ worth / weights.sum())


@lru_cache(maxsize=8192)
def _rouge_counts(text: str) -> Counter[str]:
    return Counter(_ROUGE_WORD.findall(text.lower()))
