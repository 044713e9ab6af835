"""Self-BLEU against a slow transcription of sentence BLEU, against sacrebleu where it is installed, and by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from polyray.algorithms import balanced_set_credits, polychromic_advantages, self_bleu_value


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


def others(samples: list[list[int]], subset: tuple[int, ...], member: int) -> list[list[int]]:
    return [samples[j] for j in subset if j != member]


@pytest.mark.parametrize("max_n", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_value_is_one_minus_the_mean_bleu_of_each_against_the_others(seed, max_n) -> None:
    samples = random_samples(seed)
    value = self_bleu_value(samples, max_n)
    for subset in [(0, 1), (1, 4, 6), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5, 6)]:
        expected = 1 - np.mean([bleu(samples[i], others(samples, subset, i), max_n) for i in subset])
        assert value(subset) == pytest.approx(expected, abs=1e-13)
        assert 0 <= value(subset) <= 1


def test_the_transcription_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed; it is no dependency")
    metric = sacrebleu.BLEU(
        smooth_method="floor", smooth_value=0.1, effective_order=True, tokenize="none", force=True
    )
    for seed in range(20):
        samples = [row for row in random_samples(seed) if row]
        words = [" ".join(f"w{token}" for token in row) for row in samples]
        for i, row in enumerate(samples):
            score = metric.sentence_score(words[i], words[:i] + words[i + 1 :]).score / 100
            assert bleu(row, samples[:i] + samples[i + 1 :], 4) == pytest.approx(score, abs=1e-12)


def test_values_by_hand() -> None:
    value = self_bleu_value([[1, 2, 3], [1, 2, 4], [5, 6], [1, 2, 3], [], [], [9]], max_n=2)
    # Both ways: 2 of 3 tokens, 1 of 2 bigrams, equal lengths.
    assert value((0, 1)) == pytest.approx(1 - math.sqrt(2 / 3 * 1 / 2))
    assert value((0, 3)) == pytest.approx(0, abs=1e-15)
    assert value((0, 2)) == 1.0
    assert (value((4, 5)), value((4, 6)), value((3,))) == (0.0, 1.0, 1.0)
    # (1, 2, 3) and its twin are perfect, (5, 6) shares nothing.
    assert value((0, 2, 3)) == pytest.approx(1 / 3)


def test_permutations_and_relabelling_change_nothing() -> None:
    samples = random_samples(3)
    value = self_bleu_value(samples)
    relabelled = self_bleu_value([[1000 - 7 * token for token in row] for row in samples])
    reversed_order = self_bleu_value(samples[::-1])
    for subset in [(0, 1, 2, 5), (2, 3, 4)]:
        assert relabelled(subset) == value(subset)
        mirrored = tuple(6 - index for index in reversed(subset))
        assert reversed_order(mirrored) == pytest.approx(value(subset), abs=1e-15)


def test_a_copy_is_paid_less_than_the_odd_one_out() -> None:
    tokens = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]
    result = polychromic_advantages(
        np.ones(5),
        objective="self_bleu",
        quality_weight=1.0,
        diversity_weight=1.0,
        set_size=2,
        tokens_G=tokens,
    )
    # A pair is worth 1 with the odd one (4 of 10), else 0; N x credit = k (mean with - mean without).
    np.testing.assert_allclose(result.advantages_G, [-0.5, -0.5, -0.5, 2.0, -0.5], rtol=0, atol=1e-12)


def test_sampled_sets_agree_with_all_sets_on_average() -> None:
    samples = random_samples(5)
    value = self_bleu_value(samples)
    everything = balanced_set_credits(value, 7, 3, 35, np.random.default_rng(0))
    draws = [balanced_set_credits(value, 7, 3, 7, np.random.default_rng(seed)) for seed in range(300)]
    error = np.std(draws, axis=0) / math.sqrt(len(draws))
    assert np.abs(everything).max() > 0.01
    assert (np.abs(np.mean(draws, axis=0) - everything) < 4 * error + 1e-12).all()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"max_n=0.*\b1\b"):
        self_bleu_value([[1]], max_n=0)
    with pytest.raises(ValueError, match=r"objective='self_bleu'.*tokens_G.*\b1\b.*\b3\b"):
        polychromic_advantages(
            [1, 0, 1],
            objective="self_bleu",
            quality_weight=1.0,
            diversity_weight=1.0,
            set_size=2,
            tokens_G=[[1]],
        )
