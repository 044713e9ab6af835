"""A finished sweep as the jobs leave it: trials, an evaluation by the project's own writers, run directories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.config.evaluation import EvaluationSpec
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.report.sweep.trials import Trial
from tests.sample_files import write_lines

AXIS = "algorithm.diversity_weight"
NUM_SAMPLES = 4


def trial(
    trial_id: str, value: float, seed: int = 0, *, others: Mapping[str, Any] | None = None, **fields: Any
) -> Trial:
    """A trial that finished, unless `fields` say otherwise."""
    defaults: dict[str, Any] = {
        "status": "done",
        "error": None,
        "steps": 60,
        "metric": None,
        "seconds": 100.0,
        "core_hours": 0.25,
        "gpu_hours": 0.0,
        "tokens": 1000,
    }
    return Trial(trial_id, {AXIS: value, **(others or {})}, seed, **(defaults | fields))


def read_trials(path: Path) -> list[Trial]:
    """All trials of a trials.jsonl."""
    return [Trial(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_evaluation(
    directory: Path,
    num_correct: Mapping[str, Sequence[int]],
    *,
    one_class: Sequence[str] = (),
    clusters: Sequence[str] = (),
    num_samples: int = NUM_SAMPLES,
) -> Path:
    """`num_correct`: arm -> of `num_samples` samples per prompt, how many are correct.

    Correct samples differ from each other, for the arms of `one_class` they are all the same; the less likely a
    sample, the earlier it comes, so the selector logprob picks the last one, which is wrong unless all are right.
    """
    records = [
        SampleRecord(
            task_id=f"task-{prompt}",
            completion=f"{index}",
            sample_index=index,
            model=arm,
            prompt_sha256=f"sha-{prompt}",
            reward=float(index < correct),
            class_id=(0 if arm in one_class else index) if index < correct else -1,
            num_tokens=3,
            logprob=float(index - 10),
            cluster_id=clusters[prompt] if clusters else "",
        )
        for arm, counts in num_correct.items()
        for prompt, correct in enumerate(counts)
        for index in range(num_samples)
    ]
    directory.mkdir(parents=True)
    write_lines(directory / "samples.jsonl", records)
    spec = EvaluationSpec(num_samples=num_samples, ks=(1, 2), bootstrap_resamples=100)
    # Arm by arm and with few resamples: a sweep does not read the intervals and comparisons of single arms.
    by_arm = [
        score_samples([record for record in records if record.model == arm], spec, ScoringContext(seed=0))
        for arm in num_correct
    ]
    metrics = by_arm[0] | {
        "models": {arm: entry for scored in by_arm for arm, entry in scored["models"].items()},
        "bootstrap_resamples": 2000,
    }
    (directory / "metrics.json").write_text(json.dumps(metrics, allow_nan=False))
    return directory


def write_run(
    directory: Path, shares: Sequence[tuple[float, float]], config: Mapping[str, Any] | None = None
) -> Path:
    """A run directory whose steps have these shares of quality and diversity in the advantages."""
    directory.mkdir(parents=True)
    rows = [
        {"step": step, "advantage_share_quality": quality, "advantage_share_diversity": diversity}
        for step, (quality, diversity) in enumerate(shares)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "config.json").write_text(json.dumps(config or {}))
    return directory
