"""Small finished evaluations as jobs.evaluate leaves them, from the class of every sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.config.evaluation import EvaluationSpec
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.scoring import ScoringContext, score_samples
from tests.sample_files import write_lines

WRONG = -1
Classes = Mapping[str, Sequence[Sequence[int]]]
"""model -> prompt -> the class of each sample, WRONG for one that does not pass."""


def records_of(
    models: Classes,
    clusters: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    domain: str = "code",
) -> list[SampleRecord]:
    """Prompts p0, p1, ...; completions say their model and index, and have 10 tokens more from prompt to prompt."""
    return [
        SampleRecord(
            task_id=f"p{number}",
            completion=f"{model} {index}",
            sample_index=index,
            domain=domain,
            model=model,
            reward=float(class_id != WRONG),
            class_id=class_id,
            num_tokens=10 * (number + 1),
            logprob=-float(index),
            cluster_id="" if clusters is None else clusters[number],
            prompt=f"prompt {number}" if prompts is None else prompts[number],
            prompt_sha256=f"sha {number}" if prompts is None else prompts[number],
        )
        for model, rows in models.items()
        for number, row in enumerate(rows)
        for index, class_id in enumerate(row)
    ]


def write_run(
    path: Path,
    models: Classes,
    *,
    ks: Sequence[int] = (1, 2),
    seed: int = 0,
    baseline: str | None = None,
    domain: str = "code",
    clusters: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
) -> Path:
    """A run directory with config.json, evaluation/samples.jsonl and evaluation/metrics.json."""
    path.mkdir(parents=True)
    config = {"name": path.name, "seed": seed, "task": {"type": domain}, "adapters": dict.fromkeys(models)}
    (path / "config.json").write_text(json.dumps(config))
    records = records_of(models, clusters, prompts, domain)
    write_lines(path / "evaluation" / "samples.jsonl", records)
    spec = EvaluationSpec(num_samples=max(ks), ks=tuple(ks), bootstrap_resamples=200)
    metrics = score_samples(records, spec, ScoringContext(seed=seed, baseline=baseline))
    (path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return path


def change_metrics(run: Path, **values: Any) -> None:
    """Sets keys of the run's metrics.json."""
    file = run / "evaluation" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def write_judge(run: Path, pairs: Sequence[Mapping[str, Any]]) -> Path:
    """A judge's summary.json in `run`."""
    file = run / "judge" / "summary.json"
    file.parent.mkdir(parents=True)
    file.write_text(
        json.dumps({"status": "complete", "judge": "a judge", "mode": "pairwise", "pairs": pairs})
    )
    return file


def write_validated_reward(run: Path, correlation: float) -> Path:
    """A validation of the reward "mine" beside the baseline "length"."""
    intervals = {
        name: {"value": value, "low": value - 0.1, "high": value + 0.1}
        for name, value in (("mine", correlation), ("length", 0.1))
    }
    metrics = {
        "kind": "reward_validation",
        "models": {name: {"spearman_within": {"value": interval}} for name, interval in intervals.items()},
        "scorers": {"mine": {"role": "model"}, "length": {"role": "baseline"}},
    }
    (run / "evaluation").mkdir(parents=True)
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return run


def at_pointer(values: Any, pointer: str) -> Any:
    """Value at a JSON pointer (RFC 6901), by code of its own."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values
