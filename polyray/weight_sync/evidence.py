"""Statistics of probe log-probs that tell a version from its alternatives. Pure functions of arrays.

Log-probs in 16 bits are noisy: any change of the weights rounds every activation anew. On SmolLM2-135M one optimiser
step of 1e-5 changes a log-prob by .002 nats, and its rounding noise is .06. None of these functions has a limit in
nats: each compares differences of the engine with differences of the learner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

CLEARLY = 5.0
"""Standard errors: of 3 million sound deliveries one is refused."""
MOST = 0.9
"""Share of tokens on which an engine with old weights moves less than the learner. A sound engine's is about half."""
MIN_TOKENS = 26
"""Tokens below which a sign test of CLEARLY standard errors cannot speak."""
KEPT = 0.95
"""Share of tokens, those with the smallest differences, that a slope is fitted to."""
SCALE_ERROR = 0.1
"""Largest slope above 1 that is no fault, however small its standard error."""


TYPICAL = 0.75
"""Share of tokens, those with the smallest differences, whose mean is the size of the noise under a magnified
adapter. With all tokens, single outliers bring the noise of a sound engine to 1.44 times the learner's own."""


def typical_size(difference_N: np.ndarray) -> float:
    """Mean |difference| over the TYPICAL share of tokens; not a number where a difference is none."""
    size_N = np.sort(np.abs(difference_N))
    if not np.isfinite(size_N).all():
        return float("nan")
    return float(size_N[: max(1, int(TYPICAL * len(size_N)))].mean())


def distinct_tokens(sequences: Sequence[Sequence[int]], *, with_shared: bool) -> np.ndarray:
    """[N] bool, laid out like `Probe.logprobs`: tokens that are evidence.

    Prompts begin alike (a system prompt, a template). A shared beginning is computed alike, noise included. It counts
    once with `with_shared`, otherwise not at all: in 16 bits the first tokens of a template are the noisiest.
    """
    beginnings = [tuple(sequence[: end + 1]) for sequence in sequences for end in range(1, len(sequence))]
    if not with_shared:
        count = Counter(beginnings)
        return np.array([count[beginning] == 1 for beginning in beginnings], bool)
    seen: set[tuple[int, ...]] = set()
    distinct: list[bool] = []
    for beginning in beginnings:
        distinct.append(beginning not in seen)
        seen.add(beginning)
    return np.array(distinct, bool)


def is_nearer(values_N: np.ndarray, to_N: np.ndarray, than_to_N: np.ndarray) -> bool:
    """Whether `values` are `to` rather than `than_to`, up to noise, by CLEARLY standard errors of a sign test.

    [N] each. A token says which of the two its value is nearer to, and all count alike: noise in 16 bits is heavy in
    the tails, and where it is all that separates the two, half of the tokens say the one and half the other.
    """
    nearer_N = np.sign(np.abs(values_N - than_to_N) - np.abs(values_N - to_N))
    return float(nearer_N.sum()) > CLEARLY * float(np.count_nonzero(nearer_N)) ** 0.5


def is_unmoved(engine_N: np.ndarray, learner_N: np.ndarray) -> bool:
    """Whether an engine answers with the weights of another version, given both sides' changes since that version.

    [N] each. New weights round anew, so engine and learner move about equally far even if the step is tiny. With old
    weights the engine repeats its answer. False if the learner itself stayed on half of the tokens.
    """
    moved_N = learner_N != 0
    if moved_N.sum() < max(MIN_TOKENS, len(moved_N) / 2):
        return False
    return float(np.mean(np.abs(engine_N[moved_N]) < np.abs(learner_N[moved_N]))) > MOST


def wrong_scale(engine_N: np.ndarray, learner_N: np.ndarray) -> float | None:
    """Slope above 1 between both sides' changes from the base; below 1 where the engine changed too little.

    [N] each; None for a sound engine. Noise on the regressor flattens a slope, so between two noisy measurements of
    one change neither slope exceeds 1, whatever the sizes of their noise. The tails of the noise are left out, and
    standard errors are robust (HC0).
    """
    apart_N = np.abs(engine_N - learner_N)
    kept = apart_N <= np.quantile(apart_N, KEPT)
    engine_N, learner_N = engine_N[kept], learner_N[kept]
    too_much, too_little = _slope_above_1(engine_N, learner_N), _slope_above_1(learner_N, engine_N)
    if too_much is not None:
        return too_much
    return None if too_little is None else 1 / too_little


def _slope_above_1(y_N: np.ndarray, x_N: np.ndarray) -> float | None:
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    power = float(x_N @ x_N)
    if len(x_N) < MIN_TOKENS or not power:
        return None
    slope = float(x_N @ y_N) / power
    error = float(np.sqrt((x_N**2 * (y_N - slope * x_N) ** 2).sum())) / power
    return slope if slope > 1 + max(SCALE_ERROR, CLEARLY * error) else None
