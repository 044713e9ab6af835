"""Diversity of words in the texts of one prompt: distinct-n, EAD, richness, self-BLEU, compression.

All of them see words, not meaning, and all depend on length, so compare them at equal k and similar lengths; EAD
and HD-D are the two that are built to bear other lengths. Tokens are those of tokens.py. Not here: distances
of meaning (diversity.py); the self-BLEU that is trained on (algorithms.subset_credits works on token ids and
smooths otherwise). Called by evaluation, once per prompt.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyray.metrics.combinatorics import miss_probability
from polyray.metrics.tokens import check_order, check_texts, ngrams, tokenized, words

HDD_SAMPLE = 42
"""Tokens per random sample of HD-D, the size its authors chose."""


@dataclass(frozen=True, slots=True)
class VocabularyRichness:
    """e.g. VocabularyRichness(type_token_ratio=.41, hdd=.79)."""

    type_token_ratio: float
    """Different tokens / tokens: falls with length."""
    hdd: float
    """Expected type-token ratio of 42 random tokens: does not depend on length. NaN for fewer than 42."""


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams / n-grams, pooled over the texts of one prompt, in (0, 1] (Li et al. 2016).

    NaN where no text has n tokens. Falls with the number and length of the texts. n-grams do not reach across
    texts.
    """
    check_texts(texts)
    check_order(n)
    counts = _ngram_counts(texts, n)
    return len(counts) / counts.total() if counts else float("nan")


def expectation_adjusted_distinct(texts: Sequence[str], vocabulary_size: int, n: int = 1) -> float:
    """EAD = U / (V [1 - ((V - 1) / V)^C]): distinct n-grams over their expectation (Liu et al. 2022).

    U different n-grams among C, pooled over the texts; V equally likely n-grams would give the expectation, so
    uniformly random text has EAD 1 at every length. NaN where no text has n tokens.

    Args:
        texts: of one prompt.
        vocabulary_size: V, one and the same for all models that are compared (the authors take the largest of
            their vocabularies). The formula knows V outcomes: for n > 1 give the number of n-grams that could
            occur; with the number of words instead, values exceed 1.
        n: the order.

    Raises:
        ValueError: vocabulary_size < 1, or for n = 1 smaller than the number of different tokens found.
    """
    check_texts(texts)
    check_order(n)
    counts = _ngram_counts(texts, n)
    if vocabulary_size < max(1, len(counts) if n == 1 else 1):
        raise ValueError(
            f"vocabulary_size={vocabulary_size} must be at least 1 and the number of different tokens in the "
            f"texts, {len(counts)}; give the size of the largest vocabulary that is compared"
        )
    if not counts:
        return float("nan")
    # expm1 and log1p keep the digits that ((V - 1) / V)^C loses for a large V.
    seen_share = -np.expm1(counts.total() * np.log1p(-1.0 / vocabulary_size)) if vocabulary_size > 1 else 1.0
    return float(len(counts) / (vocabulary_size * seen_share))


def vocabulary_richness(texts: Sequence[str]) -> VocabularyRichness:
    """Type-token ratio and HD-D of all tokens of the texts together.

    HD-D (McCarthy and Jarvis 2007): the expected number of different tokens among 42 drawn without
    replacement, / 42; the sum over types of 1 - C(N - n_t, 42) / C(N, 42). Like every rarefaction it is unbiased
    for any N >= 42 and does not depend on the order of the texts, as MTLD and moving averages do.
    """
    check_texts(texts)
    counts = _ngram_counts(texts, 1)
    num_tokens = counts.total()
    if not counts:
        return VocabularyRichness(float("nan"), float("nan"))
    hdd = float("nan")
    if num_tokens >= HDD_SAMPLE:
        misses = miss_probability(num_tokens, HDD_SAMPLE)[list(counts.values())]
        hdd = float((1.0 - misses).sum() / HDD_SAMPLE)
    return VocabularyRichness(len(counts) / num_tokens, hdd)


def self_bleu(texts: Sequence[str], max_n: int = 4) -> float:
    """Mean BLEU of each text against all the others, in [0, 1]; higher = more alike (Zhu et al. 2018).

    The mean of sacrebleu's `BLEU(effective_order=True).sentence_score` / 100: 13a tokens, case kept, n up to
    `max_n`, smoothing `exp`, closest reference length. Texts without a common token have 0, equal texts 1,
    empty texts 0. Grows with the number of texts: compare at equal k.

    Computed in one pass: what clips an n-gram of text i is its largest count among the others, which is the
    largest count of all, or the second largest where i itself holds the largest.

    Raises:
        ValueError: fewer than 2 texts.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    check_texts(texts, at_least=2)
    check_order(max_n)
    counts_G, lengths_G = zip(
        *(extract_all_word_ngrams(tokenized(text), 1, max_n) for text in texts), strict=True
    )
    largest_two: dict[tuple[str, ...], tuple[int, int]] = {}
    for counts in counts_G:
        for gram, count in counts.items():
            largest, second = largest_two.get(gram, (0, 0))
            if count > largest:
                largest_two[gram] = count, largest
            elif count > second:
                largest_two[gram] = largest, count
    total_score = 0.0
    for i, (counts, length) in enumerate(zip(counts_G, lengths_G, strict=True)):
        matched, found = [0] * max_n, [0] * max_n
        for gram, count in counts.items():
            largest, second = largest_two[gram]
            matched[len(gram) - 1] += min(count, second if count == largest else largest)
            found[len(gram) - 1] += count
        others = lengths_G[:i] + lengths_G[i + 1 :]
        closest = min(others, key=lambda other: (abs(other - length), other))
        total_score += BLEU.compute_bleu(
            matched, found, length, closest, smooth_method="exp", effective_order=True, max_ngram_order=max_n
        ).score
    return total_score / (100.0 * len(texts))


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts / bytes after gzip; higher = more alike (Shaib et al. 2024).

    UTF-8, joined by newlines, level 9, no time stamp. Depends on the order of the texts a little and on their
    length a lot (gzip's own 20 bytes make it less than 1 for short ones); compare at similar lengths. NaN where
    all texts are empty.
    """
    check_texts(texts)
    # surrogatepass: a model may produce half a character, which has no UTF-8 form.
    raw = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(raw) / len(gzip.compress(raw, compresslevel=9, mtime=0)) if any(texts) else float("nan")


def _ngram_counts(texts: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(words(text), n))
    return counts
