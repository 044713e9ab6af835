"""NoveltyBench's partition of one prompt's completions into classes (arXiv 2504.05228).

The benchmark's greedy partition and its rule that needs no model. Not here: classes from embeddings or a judge (the
caller hands in `same`), and the benchmark's own classifier and reward model. Called by the tasks without a verifier.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

UNIGRAM_THRESHOLD = 0.458
"""ROUGE-1 F above which NoveltyBench's unigram rule calls two texts equivalent."""
SHORT_TEXT_WORDS = 5

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


@lru_cache(maxsize=8192)
def _rouge_counts(text: str) -> Counter[str]:
    return Counter(_ROUGE_WORD.findall(text.lower()))
