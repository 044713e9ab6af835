"""Part of `benchmark evaluation`: the memory of scoring an evaluation must not grow with its samples.

The same prompts with ten times the samples, each time a process of its own that sees a samples.jsonl for the first
time and writes a metrics.json's contents. No model, no Ray. Called by evaluation.py.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.evaluation_metrics import made_texts
from benchmarks.measure import Measure, peak_bytes

PROMPTS, SAMPLES, TIMES = 500, 16, 10
LIMIT_RATIO = 1.2


def memory_measures(num_prompts: int = PROMPTS, num_samples: int = SAMPLES) -> list[Measure]:
    """Peak memory of scoring few and many samples per prompt, and their ratio."""
    peaks, seconds, sizes = [], [], []
    with tempfile.TemporaryDirectory(prefix="polyray-benchmark-") as directory:
        for times in (1, TIMES):
            file = Path(directory) / f"samples-{times}.jsonl"
            write_samples(file, num_prompts, num_samples * times)
            sizes.append(file.stat().st_size)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                peak, took = pool.submit(scored, file).result()
            peaks.append(float(peak))
            seconds.append(took)
    few, many = (f"{num_prompts} x {num_samples * times}" for times in (1, TIMES))
    return [
        Measure(f"scoring {few} samples, peak memory", (peaks[0] / 1e9,), "GB"),
        Measure(f"scoring {many} samples, peak memory", (peaks[1] / 1e9,), "GB"),
        Measure("... their ratio", (peaks[1] / peaks[0],), "", LIMIT_RATIO),
        Measure(
            f"... with {sizes[1] / 1e6:.0f} MB instead of {sizes[0] / 1e6:.0f} MB of samples",
            (seconds[1],),
            "s",
        ),
    ]


def write_samples(path: Path, num_prompts: int, num_samples: int) -> None:
    """Two models; half of the samples pass."""
    from polyray.evaluation.records import SampleRecord, as_line

    texts = made_texts(20, num_samples)
    with path.open("w", encoding="utf-8") as file:
        for model in ("a", "b"):
            for prompt in range(num_prompts):
                file.writelines(
                    as_line(
                        SampleRecord(
                            f"p{prompt}",
                            text,
                            index,
                            model=model,
                            reward=float((index + prompt) % 2),
                            class_id=index % 7,
                            logprob=-float(index),
                            num_tokens=30,
                        )
                    )
                    for index, text in enumerate(texts[prompt % 20])
                )


def scored(path: Path) -> tuple[int, float]:
    """(peak bytes of this process, seconds)."""
    from polyray.config.evaluation import EvaluationSpec
    from polyray.evaluation.sample_source import SampleFile
    from polyray.evaluation.scoring import ScoringContext, score_samples

    spec = EvaluationSpec(num_samples=SAMPLES, ks=(1, 4, 16), bootstrap_resamples=500)
    started = time.perf_counter()
    with SampleFile(path) as source:
        score_samples(source, spec, ScoringContext(seed=0))
    return peak_bytes(), time.perf_counter() - started
