"""Program of each rank in test_sharding.py: RL steps and SFT runs, base whole and sharded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from polyray.config.run import SftConfig, TrainConfig
from polyray.learner.policy import Policy
from polyray.learner.state import newest_checkpoint
from polyray.learner.supervised_loop import SupervisedRun, run_supervised
from polyray.models.lora import adapter_bytes
from polyray.runs.jsonl import read_jsonl
from polyray.types import ScoredGroup, TrainingBatch, is_timing_key
from tests.unit.learner.step_fixtures import as_batch
from tests.unit.tiny_policy import random_group, train_config

WORLD_SIZE = 2
SHARDINGS = ("none", "base")
RL_STEPS = 3
CPU = torch.device("cpu")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"type": "cross_entropy"},
    "ba_lora": {"type": "ba_lora"},
}


@contextmanager
def joined(rank: int, world_size: int, meeting_file: Path) -> Iterator[None]:
    """A process group over gloo, one thread, reproducible kernels."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run_rank(rank: int, model_dir: Path, target: Path) -> None:
    """A process: writes target/SHARDING/rank-N.json, and what the runs themselves write."""
    with joined(rank, WORLD_SIZE, target / "meeting"):
        for sharding in SHARDINGS:
            directory = target / sharding
            directory.mkdir(exist_ok=True)
            found = {"rl": _reinforce(rank, sharding, model_dir, directory)}
            for name, objective in OBJECTIVES.items():
                found[name] = _fine_tune(rank, sharding, objective, model_dir, directory / name)
            (directory / f"rank-{rank}.json").write_text(json.dumps(found))


def rl_config(sharding: str, **learner: Any) -> TrainConfig:
    """All that makes passes: reference, anchors before several updates, watched gradients, demonstrations."""
    return train_config(
        algorithm={
            "type": "polychromic",
            "objective": "cluster",
            "set_size": 2,
            "diversity_weight": 0.7,
            "quality_weight": 1.0,
            "kl_coefficient": 0.1,
            "proximal": "learner",
        },
        learner={
            "num_workers": WORLD_SIZE,
            "sharding": sharding,
            "micro_batch_rows": 2,
            "updates_per_batch": 2,
            "gradient_parts_every": 2,
            "gradient_checkpointing": True,
            **learner,
        },
        supervised={"demonstrations_per_step": 5, "max_tokens": 32},
    )


def batch_of(step: int, rank: int) -> TrainingBatch:
    """Rank 0 has two groups and rank 1 one; in the second step that one has no tokens at all."""
    groups: list[ScoredGroup] = [
        random_group(10 * step + i, [1, 0, 1, 0.5], classes=[7, -1, 8, 7], lengths=[2, 3, 4, 6])
        for i in range(2)
    ]
    lengths = [0, 0, 0] if step == 1 else [1, 5, 2]
    other = random_group(10 * step + 5, [1, 0, 1], classes=[9, -1, 9], lengths=lengths)
    share = as_batch(groups if rank == 0 else [other])
    return replace(share, step=step, num_groups_total=3)


def _reinforce(rank: int, sharding: str, model_dir: Path, directory: Path) -> dict[str, Any]:
    """Three steps, and the last of them again from a checkpoint."""
    config = rl_config(sharding)
    policy = Policy(config, model_dir, "float32", CPU)
    found: dict[str, Any] = {"base_bytes": base_bytes(policy.model), "metrics": [], "probes": []}
    for step in range(RL_STEPS):
        found["metrics"].append(policy.learner.step(batch_of(step, rank)))
        if rank == 0:
            found["probes"].append(policy.payload(1, step + 1).probe.logprobs.tolist())
        else:
            policy.accompany_payload()
        if rank == 0 and step == RL_STEPS - 2:
            policy.save(directory / "checkpoints", step + 1, {})
    found["adapter"] = adapter_bytes(policy.model).hex()
    dist.barrier()
    again = Policy(config, model_dir, "float32", CPU)
    restored = again.restore(newest_checkpoint(directory / "checkpoints"))
    again.learner.step(batch_of(restored.step, rank))
    found["resumed_at"], found["resumed"] = restored.step, adapter_bytes(again.model).hex()
    return found


def base_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of the base in this process: of the decoder layers, and of the rest."""
    sizes = {"layers": 0, "rest": 0}
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if ".lora_" not in name:
            sizes["layers" if ".layers." in name else "rest"] += local.numel() * local.element_size()
    return sizes


class Interrupted(Exception):
    """In place of a kill."""


def sft_config(sharding: str, objective: dict[str, Any]) -> SftConfig:
    """Ranks with different numbers of micro batches, a validation row for one of them, samples of both kinds."""
    return SftConfig.model_validate(
        {
            "name": "tiny",
            "model": {
                "lora": {"rank": 4, "alpha": 8, "dropout": 0.0 if objective["type"] == "ba_lora" else 0.1}
            },
            "demonstrations_per_step": 3,
            "max_tokens": 32,
            "objective": objective,
            "evaluation": {"every": 2, "num_rows": 1, "num_samples": 2, "max_new_tokens": 4},
            "dynamics": {"every": 2, "num_prompts": 2, "num_samples": 2},
            "learner": {
                "steps": 4,
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                "checkpoint_every": 2,
                "micro_batch_rows": 1,
                "num_workers": WORLD_SIZE,
                "sharding": sharding,
                "gradient_checkpointing": True,
            },
        }
    )


def _fine_tune(
    rank: int, sharding: str, objective: dict[str, Any], model_dir: Path, run_dir: Path
) -> dict[str, Any]:
    """A whole run; where the base is in parts, it is interrupted in the middle."""
    run = SupervisedRun(sft_config(sharding, objective), model_dir, run_dir, "float32", CPU, rank, WORLD_SIZE)
    parallel: Callable[[Any], Any] = DistributedDataParallel if sharding == "none" else lambda model: model

    def reported(metrics: dict[str, float], stop_after: int | None = None) -> None:
        dist.barrier()
        if metrics["step"] == stop_after:
            raise Interrupted

    if sharding == "base":
        try:
            run_supervised(run, parallel, lambda metrics: reported(metrics, stop_after=2))
        except Interrupted:
            dist.barrier()
    run_supervised(run, parallel, reported)
    dist.barrier()
    return {
        "adapter": (run_dir / "adapter" / "adapter_model.safetensors").read_bytes().hex(),
        "metrics": _lines(run_dir / "metrics.jsonl"),
        "dynamics": _lines(run_dir / "dynamics.jsonl"),
        "samples": [path.read_text() for path in sorted((run_dir / "samples").iterdir())],
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if not is_timing_key(k)} for line in read_jsonl(path)]
