"""SFT runs on the tiny model: a configuration, a run that may be interrupted, and the lines that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polyray.config.run import SftConfig
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.runs.jsonl import read_jsonl
from polyray.types import is_timing_key

WEIGHTS = "adapter/adapter_model.safetensors"


class Interrupted(Exception):
    """Stands for a kill."""


def sft_config(data: str | dict[str, Any] | None = None, **sections: Any) -> SftConfig:
    """A small configuration; `data` is a file of rows or a section, `learner` is merged key by key."""
    learner = {"steps": 6, "learning_rate": 1e-2, "warmup_steps": 0, "checkpoint_every": 2}
    if isinstance(data, str):
        data = {"type": "jsonl", "train": data, "validation_share": 0.3}
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "demonstrations_per_step": 4,
        "max_tokens": 32,
        **({"data": data} if data else {}),
        "dynamics": None,
        **sections,
        "learner": {**learner, **sections.get("learner", {})},
    }
    return SftConfig.model_validate(values)


def run_sft(config: SftConfig, base: Path, run_dir: Path, stop_after: int | None = None) -> bytes:
    """Run to the end and return the adapter; raise Interrupted after the checkpoint of step `stop_after`."""

    def reported(metrics: dict[str, float]) -> None:
        if metrics["step"] == stop_after:
            raise Interrupted

    run = SupervisedRun(config, base, run_dir, "float32", torch.device("cpu"), 0, 1)
    run_supervised(run, lambda model: model, reported)
    return (run_dir / WEIGHTS).read_bytes()


def metrics_of(run_dir: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """Lines of a file of the run without timings."""
    return [
        {key: value for key, value in line.items() if not is_timing_key(key)}
        for line in read_jsonl(run_dir / f"{name}.jsonl")
    ]
