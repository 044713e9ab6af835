"""Measures the set objectives: closed forms, enumeration, memory; no model, no Ray.

Each closed form on 64 samples (k = 8) and, where it is offered for large groups, on 1,024; enumeration of 8 choose
4. Every figure is the median of repeated calls, held against its limit.

  python -m benchmarks objectives
  python -m benchmarks objectives --repeats 50 --out objectives.json
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import REFERENCE_SPEED, Measure, conclude, machine
from polyray.cli.arguments import JobParser

SMALL, LARGE, K = 64, 1024, 8
LIMIT_SMALL_S, LIMIT_LARGE_S, LIMIT_ENUMERATION_S = 1e-3, 50e-3, 2e-3
MATRICES = 16
"""Memory limit in N x N float64 matrices: O(N^2)."""
OF_LARGE_GROUPS = ("mean_distance", "pairwise", "product")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = JobParser("benchmarks objectives", __doc__)
    parser.add_argument("--repeats", type=int, default=30, help="calls per figure; the median counts")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--check", action="store_true", help="print what would be measured as JSON and exit")
    options = parser.parse_strictly(argv)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: at least 1")
    if options.check:
        print(
            json.dumps(
                {
                    "job": "benchmarks objectives",
                    "num_samples": [SMALL, LARGE],
                    "set_size": K,
                    "repeats": options.repeats,
                }
            )
        )
        return 0
    small, large = closed_forms(SMALL), closed_forms(LARGE)
    before = machine()
    measures = [
        _time(f"{name}, N = {SMALL}", call, options.repeats, LIMIT_SMALL_S) for name, call in small.items()
    ]
    for name, call in large.items():
        limit = LIMIT_LARGE_S if name in OF_LARGE_GROUPS else None
        measures.append(_time(f"{name}, N = {LARGE}", call, max(3, options.repeats // 10), limit))
    measures.append(_time("enumeration of 8 choose 4", enumeration(), options.repeats, LIMIT_ENUMERATION_S))
    measures += [_memory(name, call) for name, call in large.items()]
    print(
        f"a core ran {before['core_speed']} million loop turns/s (the limits of seconds: {REFERENCE_SPEED:g})"
    )
    return conclude(measures, {"machine": before}, options.out)


def closed_forms(num_samples: int) -> dict[str, Callable[[], Any]]:
    """Every objective with a closed form, on one random group."""
    import numpy as np

    from polyray import algorithms

    rng = np.random.default_rng(0)
    quality, classes = rng.random(num_samples), rng.integers(-1, 6, num_samples)
    correct = (quality > 0.6).astype(np.int64)
    features = rng.normal(size=(num_samples, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    kernel = features @ features.T
    distance = np.clip((1 - kernel) / 2, 0, 1)
    np.fill_diagonal(distance, 0)
    anchors = rng.random((16, num_samples))
    return {
        "mean_distance": lambda: algorithms.mean_distance_credits(distance),
        "pairwise": lambda: algorithms.pairwise_set_credits(quality, distance, 1.0),
        "product": lambda: algorithms.product_set_credits(quality, distance, K),
        "cluster": lambda: algorithms.cluster_set_credits(quality, classes, K),
        "max": lambda: algorithms.max_set_credits(quality, K),
        "distinct_correct": lambda: algorithms.distinct_correct_set_credits(classes, K),
        "coverage": lambda: algorithms.coverage_set_credits(quality, classes, K),
        "entropy": lambda: algorithms.entropy_set_credits(classes, K),
        "simpson": lambda: algorithms.simpson_set_credits(classes, K),
        "determinant": lambda: algorithms.determinant_set_credits(kernel, K),
        "facility_location": lambda: algorithms.facility_location_set_credits(anchors, K),
        "pass_at_k_training": lambda: algorithms.pass_at_k_training_advantages(correct, K),
        "pkpo": lambda: algorithms.pkpo_advantages(quality, K),
    }


def enumeration() -> Callable[[], Any]:
    """All 70 subsets of a cheap set function."""
    from polyray import algorithms

    values = [0.3, 0.9, 0.1, 0.6, 0.2, 0.8, 0.5, 0.7]
    return lambda: algorithms.enumerated_set_credits(lambda s: max(values[i] for i in s), 8, 4)


def _time(name: str, call: Callable[[], Any], repeats: int, limit: float | None) -> Measure:
    call()  # tables of binomials are made once per size
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return Measure(name, tuple(seconds), "s", limit)


def _memory(name: str, call: Callable[[], Any]) -> Measure:
    tracemalloc.start()
    try:
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Measure(f"{name}, N = {LARGE}, peak memory", (peak / (8 * LARGE**2),), "N x N matrices", MATRICES)
