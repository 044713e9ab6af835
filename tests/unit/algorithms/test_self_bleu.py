"""Self-BLEU against a slow transcription of sentence BLEU, and that against sacrebleu."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from polyray.algorithms import self_bleu_value


def bleu(hypothesis: list[int], references: list[list[int]], max_n: int) -> float:
    """Papineni et al. 2002 for one sentence, n by n; smoothing as self_bleu_value says."""
    precisions = []
    for n in range(1, max_n + 1):
        grams = [tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
        if not grams:
            break
        clipped = 0
        for gram, count in Counter(grams).items():
            in_references = [
                sum(tuple(reference[i : i + n]) == gram for i in range(len(reference) - n + 1))
                for reference in references
            ]
            clipped += min(count, max(in_references))
        if n == 1 and clipped == 0:
            return 0.0
        precisions.append((clipped if clipped else 0.1) / len(grams))
    if not precisions:
        return float(any(not reference for reference in references))
    closest = min(sorted(len(reference) for reference in references), key=lambda r: abs(r - len(hypothesis)))
    penalty = 1.0 if len(hypothesis) > closest else math.exp(1 - closest / len(hypothesis))
    return penalty * math.prod(precisions) ** (1 / len(precisions))


def random_samples(seed: int, longest: int = 12, vocabulary: int = 4) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(0, longest + 1)).tolist() for _ in range(7)]


@pytest.mark.parametrize("max_n", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_self_bleu_value_is_one_minus_the_mean_bleu_against_the_others(seed, max_n) -> None:
    samples = random_samples(seed)
    value = self_bleu_value(samples, max_n)
    for subset in [(0, 1), (1, 4, 6), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5, 6)]:
        scores = [bleu(samples[i], [samples[j] for j in subset if j != i], max_n) for i in subset]
        assert value(subset) == pytest.approx(1 - np.mean(scores), abs=1e-13)
        assert 0 <= value(subset) <= 1


def test_transcription_of_bleu_equals_sacrebleu() -> None:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(smooth_method="floor", smooth_value=0.1, effective_order=True, tokenize="none", force=True)
    for seed in range(20):
        samples = [row for row in random_samples(seed) if row]
        words = [" ".join(f"w{token}" for token in row) for row in samples]
        for i, row in enumerate(samples):
            score = metric.sentence_score(words[i], words[:i] + words[i + 1 :]).score / 100
            assert bleu(row, samples[:i] + samples[i + 1 :], 4) == pytest.approx(score, abs=1e-12)


def test_self_bleu_value_of_equal_unlike_and_empty_samples() -> None:
    value = self_bleu_value([[1, 2, 3], [5, 6], [1, 2, 3], [], [], [9]], max_n=2)
    assert value((0, 2)) == pytest.approx(0, abs=1e-15)
    assert (value((0, 1)), value((3, 4)), value((3, 5)), value((3,))) == (1.0, 0.0, 1.0, 1.0)
