"""Tokens a second of one engine, and how long a new version takes from the learner to be served (not a job itself).

Prints one line of JSON. benchmarks gpu starts it as a child process for every engine: what an engine takes of a
device it gives back when its process ends. Learner and engine share the device. Needs no Ray.

    python -m benchmarks.gpu_engine MODEL_DIR --device cuda --dtype bfloat16 --delivery adapter
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from polyray.config.model import NF4, LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.task import HiddenTrapGridSpec
from polyray.doctor.engine_check import payload_of
from polyray.models.adapter import PolicyUpdate, Probe, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import POLICY, attach_adapter
from polyray.rollout.worker import RolloutWorker
from polyray.seeds import sample_seed
from polyray.tasks import build_task
from polyray.types import GroupRequest, PolicyVersion
from polyray.weight_sync.mode import Mode
from polyray.weight_sync.probe import probe_logprobs

TIMEOUT_S = 900.0
LORA = LoraSpec(rank=16)
SCALE_B = 0.01
"""Standard deviation of the random B."""
PROBES, PROBE_TOKENS = 4, 24


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Samples of each turn, and the number of turns.

    Example:
        EngineLoad(groups=16, group_size=16, completion_tokens=256, turns=3)
    """

    groups: int = 16
    group_size: int = 16
    completion_tokens: int = 256
    turns: int = 3


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Speed of one engine.

    Example:
        EngineSpeed(start_s=41.0, base=(21e3, 22e3, 22e3), policy=(20e3, 20e3, 21e3), publish_s=(.4, .3, .3),
                    probe_difference=.02)
    """

    start_s: float
    base: tuple[float, ...]
    """Tokens a second of the base alone; empty for delivery by adapter, which runs its kernels for the base, too."""
    policy: tuple[float, ...]
    """Tokens a second of the policy, however it was delivered."""
    publish_s: tuple[float, ...]
    """From weights in the learner to an engine that has proven to serve them."""
    probe_difference: float
    """Largest |engine - learner| over all probes, in nats."""


def engine_speed(
    model_dir: Path, device: torch.device, dtype: str, mode: Mode, load: EngineLoad
) -> EngineSpeed:
    """Builds learner and engine in this process and measures them.

    `dtype`: float32, bfloat16 or nf4, which needs `mode` adapter.
    """
    spec = RolloutSpec(
        gpus_per_worker=1.0 if device.type == "cuda" else 0.0,
        group_size=load.group_size,
        prompts_per_step=load.groups,
        max_prompt_tokens=32,
        max_completion_tokens=load.completion_tokens,
        max_sequences=load.groups * load.group_size,
        gpu_memory_utilization=0.6,
    )
    learner = _Learner(model_dir, device, dtype)

    def build() -> Any:
        from polyray.rollout.engine import EngineSettings
        from polyray.rollout.vllm_engine import VllmEngine

        rank = LORA.rank if mode == "adapter" else None
        return VllmEngine(EngineSettings(str(model_dir), dtype, spec, rank))

    worker = RolloutWorker("benchmark-gpu", build)
    try:
        start_s = worker.ready.result(TIMEOUT_S)
        base: tuple[float, ...] = ()
        if mode == "merged":
            _deliver(worker, learner.base_payload())
            base = _turns(worker, load)
        published = [_publish(worker, learner, version) for version in range(1, 2 + load.turns)]
        policy = _turns(worker, load)
    finally:
        worker.stop()
    seconds, differences = zip(*published, strict=True)
    return EngineSpeed(start_s, base, policy, seconds[1:], max(differences))


class _Learner:
    """An adapter on the base, and a new version of it whenever one is asked for."""

    def __init__(self, model_dir: Path, device: torch.device, dtype: str) -> None:
        base: Any = load_base(model_dir, dtype, device)
        draw = np.random.default_rng(0)
        tokens = draw.integers(3, base.config.vocab_size, (PROBES, PROBE_TOKENS))
        self._sequences = tuple(tuple(int(token) for token in row) for row in tokens)
        model = attach_adapter(base, LORA, None, base_sha256=base_fingerprint(model_dir), seed=0)
        self._model: Any = model.eval()
        self._draw = torch.Generator().manual_seed(0)

    def base_payload(self) -> PolicyUpdate:
        """Payload before the first step: a fresh adapter is the base."""
        probe = Probe(self._sequences, probe_logprobs(self._model, self._sequences), None)
        return PolicyUpdate(PolicyVersion(1, 0, sha256_of(b"")), b"", None, probe)

    def step(self) -> None:
        """Other weights, without training."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if f"lora_B.{POLICY}" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=self._draw) * SCALE_B)

    def payload(self, version: int) -> PolicyUpdate:
        """Payload of a version, as polyray train publishes it."""
        logprobs = probe_logprobs(self._model, self._sequences)
        return payload_of(self._model, version, Probe(self._sequences, logprobs, None))


def _deliver(worker: RolloutWorker, payload: PolicyUpdate) -> float:
    """The largest difference of log-probs, which is reported here and not judged."""
    ack = worker.deliver(payload).result(TIMEOUT_S)
    return float(np.abs(ack.logprobs - payload.probe.logprobs).max())


def _publish(worker: RolloutWorker, learner: _Learner, version: int) -> tuple[float, float]:
    """(seconds, difference) of one version."""
    learner.step()
    started = time.perf_counter()
    difference = _deliver(worker, learner.payload(version))
    return time.perf_counter() - started, difference


def _turns(worker: RolloutWorker, load: EngineLoad) -> tuple[float, ...]:
    """Tokens a second of each turn, after one that does not count."""
    task = build_task(HiddenTrapGridSpec())
    speeds = []
    for turn in range(1 + load.turns):
        requests = [
            GroupRequest(
                group_id,
                task.training_prompt(group_id, 0),
                tuple(sample_seed(0, f"turn {turn} group {group_id}", n) for n in range(load.group_size)),
                load.completion_tokens,
            )
            for group_id in range(load.groups)
        ]
        started = time.perf_counter()
        groups = [future.result(TIMEOUT_S) for future in [worker.submit(request) for request in requests]]
        speeds.append(sum(group.num_tokens for group in groups) / (time.perf_counter() - started))
    return tuple(speeds[1:])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of the child process."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", NF4])
    parser.add_argument("--delivery", default="adapter", choices=get_args(Mode))
    for field in dataclasses.fields(EngineLoad):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    given = parser.parse_args(argv)
    load = EngineLoad(**{field.name: getattr(given, field.name) for field in dataclasses.fields(EngineLoad)})
    done = engine_speed(given.model_dir, torch.device(given.device), given.dtype, given.delivery, load)
    print(json.dumps(dataclasses.asdict(done)))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
