"""Two short training runs from one seed, and what their metrics say: agreement, latency, determinism."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure
from polyray.config.run import TrainConfig
from polyray.types import is_timing_key

if TYPE_CHECKING:
    from polyray.runs.progress import ProgressDisplay

WARM_UP_STEPS = 3
LIMITS = {"difference_max": 1e-4, "difference_mean": 1e-5, "deliver_s": 0.1, "step_s": 0.8}
"""Nats (float32 on CPU) and seconds (2 cores, 16 prompts x 16 samples of the embedded model)."""
BFLOAT16_LIMITS = {"difference_max": 0.25, "difference_mean": 0.02}
PARTS = ("generate_s", "score_s", "learn_s", "deliver_s")

Lines = Sequence[Mapping[str, Any]]


def run_twice(config: TrainConfig, display: ProgressDisplay) -> list[Measure]:
    """Trains two runs of equal configuration, one after the other on one fleet of engines.

    The second meets engines that served the first's last version: none of it may matter.
    """
    from polyray.launch.fleet import open_fleet
    from polyray.launch.plan import plan_training
    from polyray.launch.train import train
    from polyray.models.base_files import resolve_dtype
    from polyray.runs.run_directory import RunDirectory

    plan = plan_training(config)
    lines: list[list[dict[str, Any]]] = []
    adapters: list[bytes] = []
    assert plan.fleet is not None
    with open_fleet(plan.fleet, "benchmark") as fleet:
        for number, name in enumerate(("first", "second"), start=1):
            display.section(f"training run, {config.learner.steps} steps", number, 2)
            run = replace(plan, config=config.model_copy(update={"name": name}))
            with RunDirectory.open(run.config) as directory:
                train(run, directory, fleet, display)
            lines.append(read_lines(directory.paths.metrics))
            adapters.append((directory.paths.adapter / "adapter_model.safetensors").read_bytes())
    dtype = resolve_dtype(config.model, config.rollout.gpus_per_worker > 0)
    measures = agreement_measures([*lines[0], *lines[1]], dtype)
    measures += latency_measures(lines[0], lines[1])
    return measures + determinism_measures(lines[0], lines[1], adapters[0] == adapters[1])


def agreement_measures(lines: Lines, dtype: str) -> list[Measure]:
    """|engine - learner| log-probs: of the tokens sampled right after each delivery, and of its probe."""
    limits = LIMITS if dtype == "float32" else BFLOAT16_LIMITS
    worst = limits["difference_max"]
    return [
        Measure("log-probs engine vs learner, largest difference", _column(lines, "logprob_difference_max"),
                "nats", worst, judged_by="worst"),
        Measure("log-probs engine vs learner, mean difference", _column(lines, "logprob_difference_mean"),
                "nats", limits["difference_mean"], judged_by="worst"),
        Measure("log-probs of the delivery probe, largest difference",
                _column(lines, "delivery_difference_max"), "nats", worst, judged_by="worst"),
    ]  # fmt: skip


def latency_measures(*runs: Lines) -> list[Measure]:
    """publish -> served and proven, one step and its parts; the first steps of each run are left out."""
    lines = [line for run in runs for line in run[WARM_UP_STEPS:]]
    measures = [
        Measure("publish -> served and proven", _column(lines, "deliver_s"), "s", LIMITS["deliver_s"]),
        Measure("one training step", _column(lines, "step_s"), "s", LIMITS["step_s"]),
    ]
    measures += [
        Measure(f"  of which {part.removesuffix('_s')}", _column(lines, part), "s") for part in PARTS
    ]
    rest = tuple(line["step_s"] - sum(line[part] for part in PARTS) for line in lines)
    return [*measures, Measure("  of which other", rest, "s")]


def determinism_measures(first: Lines, second: Lines, same_adapter: bool) -> list[Measure]:
    """Two runs of one seed: how many values differ that do not depend on the clock."""
    differing = differing_values(first, second)
    return [
        Measure("metrics that differ between two runs of one seed", (float(len(differing)),), "", 0.0),
        Measure("adapters that differ between them", (0.0 if same_adapter else 1.0,), "", 0.0),
    ]


def differing_values(first: Lines, second: Lines) -> list[str]:
    """'step 3: loss' for every value that is not equal, timing keys aside; a missing line counts as one."""
    differing = [f"step {step}" for step in range(min(len(first), len(second)), max(len(first), len(second)))]
    for one, other in zip(first, second, strict=False):
        keys = sorted({*one, *other})
        differing += [
            f"step {one['step']}: {key}"
            for key in keys
            if not is_timing_key(key) and one.get(key, "missing") != other.get(key, "missing")
        ]
    return differing


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _column(lines: Lines, key: str) -> tuple[float, ...]:
    return tuple(float(line[key]) for line in lines)
