"""Value of k candidates when the best one counts: pass@k, best@k, distinct correct classes@k.

All are unbiased over k-subsets of the n samples drawn for one prompt; average them over prompts. Not here:
the plug-in 1 - (1 - c/n)^k, which is biased low; choosing among candidates (selection.py). Called by
evaluation and by the training metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from polyray.metrics.arrays import (
    Floats,
    binary_vector,
    check_set_size,
    finite_vector,
    integer_vector,
    whole_numbers,
)
from polyray.metrics.combinatorics import miss_probability
from polyray.types import WRONG_CLASS

_TOO_FEW_SAMPLES = "there is no unbiased estimate from fewer samples; draw more samples or lower k"


@overload
def pass_at_k(num_samples: int, num_correct: int, k: int) -> float: ...


@overload
def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> float | Floats: ...


def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> float | Floats:
    """1 - C(n-c, k) / C(n, k): the chance that a random k-subset holds a correct sample (Chen et al. 2021).

    Args:
        num_samples: n, one for all prompts or an array with one per prompt.
        num_correct: c, a number or an array over prompts; both broadcast together.
        k: how many candidates are drawn without replacement, 1 <= k <= n.

    Returns:
        A float for two numbers, else a float64 array.

    Raises:
        ValueError: k > n, c > n, c < 0, or something that is no whole number.
    """
    samples, correct = whole_numbers(num_samples, "num_samples"), whole_numbers(num_correct, "num_correct")
    if samples.size == 0:
        raise ValueError("num_samples is empty; give the number of samples per prompt")
    check_set_size(k, int(samples.min()), f"num_samples={int(samples.min())}; {_TOO_FEW_SAMPLES}")
    if (correct < 0).any() or (correct > samples).any():
        raise ValueError(f"num_correct={num_correct} must lie between 0 and num_samples={num_samples}")
    if samples.ndim == 0:
        result = 1.0 - miss_probability(int(samples), int(k))[correct]
        return float(result) if correct.ndim == 0 else result
    samples, correct = np.broadcast_arrays(samples, correct)
    result = np.empty(samples.shape)
    for size in np.unique(samples):
        chosen = samples == size
        result[chosen] = 1.0 - miss_probability(int(size), int(k))[correct[chosen]]
    return result


def best_at_k(qualities_G: npt.ArrayLike, k: int) -> float:
    """Expected best quality among k of the n samples, max@k; n = len(qualities_G).

    With qualities ascending it is the sum over ranks r = k..n of C(r-1, k-1) / C(n, k) q_(r); for qualities
    in {0, 1} it is pass@k. Raises ValueError for k > n and for NaN.
    """
    return best_curve(qualities_G, (k,))[0]


def best_curve(qualities_G: npt.ArrayLike, ks: Sequence[int]) -> list[float]:
    """best@k for several k, from one sorting. Arguments as in `best_at_k`."""
    qualities = np.sort(finite_vector(qualities_G, "qualities_G"))
    num_samples = len(qualities)
    for k in ks:
        check_set_size(k, num_samples, f"qualities_G has {num_samples} samples; {_TOO_FEW_SAMPLES}")
    # Entry r of the reversed table is C(r, k) / C(n, k), the chance that the best sample has rank r or less.
    return [float(np.diff(miss_probability(num_samples, int(k))[::-1]) @ qualities) for k in ks]


def distinct_correct_at_k(classes_G: npt.ArrayLike, correct_G: npt.ArrayLike, k: int) -> float:
    """Expected number of different classes among the correct ones of k samples (rarefaction).

    The sum over classes c of 1 - C(n - n_c, k) / C(n, k), with n_c the *correct* ones of class c among all n.

    Args:
        classes_G: [G] whole numbers; -1 never counts, not even where `correct_G` says 1.
        correct_G: [G] of 0 / 1 or booleans.
        k: 1 <= k <= G.

    Raises:
        ValueError: k > G, different lengths, values other than whole numbers and 0 / 1.
    """
    return distinct_correct_curve(classes_G, correct_G, (k,))[0]


def distinct_correct_curve(
    classes_G: npt.ArrayLike, correct_G: npt.ArrayLike, ks: Sequence[int]
) -> list[float]:
    """distinct-correct@k for several k, from one counting. Arguments as in `distinct_correct_at_k`."""
    classes = integer_vector(classes_G, "classes_G")
    num_samples = len(classes)
    correct = binary_vector(correct_G, "correct_G", num_samples)
    for k in ks:
        check_set_size(k, num_samples, f"classes_G has {num_samples} samples; {_TOO_FEW_SAMPLES}")
    _, sizes = np.unique(classes[correct & (classes != WRONG_CLASS)], return_counts=True)
    return [float((1.0 - miss_probability(num_samples, int(k))[sizes]).sum()) for k in ks]
