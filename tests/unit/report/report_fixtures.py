"""Small run directories as the jobs write them, for the tests of polyray.report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyray.config.evaluation import EvaluationSpec
from polyray.evaluation.records import SampleRecord
from polyray.evaluation.scoring import ScoringContext, score_samples
from polyray.types import METRIC_KEYS
from tests.sample_files import write_lines

GRID_PROMPTS = ("37|b1>e4=", "12|a1>c3=", "55|h8>f5=")


def write_training_run(
    path: Path, algorithm: dict[str, Any] | None, *, seed: int = 0, steps: int = 4
) -> Path:
    path.mkdir(parents=True)
    config: dict[str, Any] = {"name": path.name, "seed": seed, "task": {"type": "hidden_trap_grid"}}
    if algorithm is not None:
        config["algorithm"] = algorithm
    (path / "config.json").write_text(json.dumps(config))
    parts = {"generate_s": 0.2, "score_s": 0.1, "learn_s": 0.3, "deliver_s": 0.1, "kl_rollout": None}
    rows = [
        dict.fromkeys(METRIC_KEYS, 0.5)
        | parts
        | {"step": step, "step_s": 9.0 if step == 0 else 1.0, "loss": 2.0 - step}
        for step in range(steps)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_evaluation(
    path: Path,
    models: Mapping[str, Sequence[Sequence[float]]],
    *,
    seed: int = 0,
    baseline: str | None = None,
    **texts: str,
) -> Path:
    """`models`: rewards per prompt and sample. Adapters lie in runs named like the models, lower case."""
    adapters = {name: f"{path.parent}/{name.lower()}-seed{seed}/adapter" for name in models}
    path.mkdir(parents=True)
    config = {
        "seed": seed,
        "task": {"type": "hidden_trap_grid"},
        "adapters": adapters,
        "evaluation": {"examples": 2},
    }
    (path / "config.json").write_text(json.dumps(config))
    records = [
        SampleRecord(
            f"test-{prompt}",
            texts.get("completion", "RRRUUU"),
            index,
            "hidden_trap_grid",
            name,
            reward=reward,
            class_id=index if reward >= 1 else -1,
            num_tokens=7,
            logprob=-1.0,
            cluster_id=prompt[3:],
            prompt=prompt,
            prompt_sha256=prompt,
        )
        for name, rewards_PG in models.items()
        for prompt, rewards in zip(GRID_PROMPTS, rewards_PG, strict=False)
        for index, reward in enumerate(rewards)
    ]
    write_lines(path / "evaluation" / "samples.jsonl", records)
    spec = EvaluationSpec(num_samples=4, ks=(1, 2), bootstrap_resamples=200)
    metrics = score_samples(records, spec, ScoringContext(seed=seed, baseline=baseline))
    (path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return path
