"""Part of `benchmark evaluation`: time and memory of self-BLEU, USQ and bootstrap on a whole evaluation.

1,000 prompts with 16 candidates of about 30 words, made from a seed; a process of its own, so that the peak
memory is that of the metrics alone. No model, no Ray. Called by evaluation.py.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.measure import Measure, peak_bytes

PROMPTS, SAMPLES, WORDS = 1000, 16, 30
KS = (1, 4, 8, 16)
LIMIT_S, LIMIT_GB = 60.0, 2.0
RESAMPLES = 2000


def metric_measures(num_prompts: int = PROMPTS, num_samples: int = SAMPLES) -> list[Measure]:
    """Seconds of each part and of all of them, and their peak memory; limits for the whole only."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        figures = pool.submit(measured_parts, num_prompts, num_samples).result()
    size = f"{num_prompts:,} x {num_samples}"
    seconds = figures["seconds"]
    total, cpu = (sum(part[number] for part in seconds.values()) for number in (0, 1))
    return [
        *(Measure(f"{name}, {size}", (wall,), "s") for name, (wall, _) in seconds.items()),
        Measure(f"self-BLEU, USQ and bootstrap, {size}", (total,), "s", LIMIT_S),
        Measure("... CPU time", (cpu,), "s"),
        Measure("... peak memory of the process", (figures["peak_bytes"] / 1e9,), "GB", LIMIT_GB),
    ]


def measured_parts(num_prompts: int, num_samples: int) -> dict[str, Any]:
    """name -> (wall, CPU) seconds, and the peak memory of this process; imports count, making data does not."""
    import numpy as np

    texts = made_texts(num_prompts, num_samples)
    generator = np.random.default_rng(1)
    qualities = {name: generator.random((num_prompts, num_samples)).round(1) for name in ("a", "b")}
    scores = {name: quality + generator.normal(size=quality.shape) for name, quality in qualities.items()}
    seconds: dict[str, tuple[float, float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = call()
        seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
        return answer

    def self_bleus() -> None:
        from polyray.metrics import self_bleu

        for candidates in texts:
            self_bleu(candidates)

    def usq() -> dict[str, dict[str, Any]]:
        from polyray.metrics import usq_at_k

        return {
            f"usq_at_k/{k}": {
                name: [usq_at_k(s, q, k) for s, q in zip(scores[name], qualities[name], strict=True)]
                for name in qualities
            }
            for k in KS
        }

    def bootstrap(values: dict[str, dict[str, Any]]) -> None:
        from polyray.metrics import bootstrap_mean, compare_metrics

        for models in values.values():
            for column in models.values():
                bootstrap_mean(column, resamples=RESAMPLES)
        compare_metrics(values, resamples=RESAMPLES)

    timed("self-BLEU", self_bleus)
    values = timed(f"USQ of 2 models at {len(KS)} k", usq)
    timed("bootstrap and comparison of these", lambda: bootstrap(values))
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def made_texts(num_prompts: int, num_samples: int, seed: int = 0) -> list[list[str]]:
    """Candidates of one prompt draw most words from the 40 of its topic, so that their n-grams meet."""
    import numpy as np

    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(num_prompts):
        topic = generator.integers(0, 20_000, size=40)
        lengths = generator.integers(WORDS - 10, WORDS + 11, size=num_samples)
        texts.append([" ".join(f"w{word}" for word in generator.choice(topic, length)) for length in lengths])
    return texts
