"""One round through learner and engine on a tiny random model (not a job itself): deliver, prove, sample,
compare, train, deliver again.

Prints one line of JSON. The doctor runs it as a child process, and so do benchmarks gpu and tests for the GPU:
what an engine takes of a device it gives back when its process ends. Needs torch, transformers, peft and vLLM, not
Ray.

    python -m polyray.doctor.engine_check                  bfloat16 on the GPU where torch sees one, else
    float32 on CPU python -m polyray.doctor.engine_check --device cuda --dtype nf4 --delivery adapter
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from polyray.config.model import NF4, LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.config.run import TrainConfig
from polyray.config.task import HiddenTrapGridSpec
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base
from polyray.models.lora import POLICY, adapter_bytes, adapter_config, add_reference, attach_adapter
from polyray.rollout.engine import EngineSettings
from polyray.rollout.worker import RolloutWorker
from polyray.types import Group, GroupRequest, PolicyVersion, ScoredGroup, StepMetrics, TrainingBatch
from polyray.weight_sync.mode import Mode
from polyray.weight_sync.probe import probe_logprobs, probe_sequences
from polyray.weight_sync.proof import SyncVerifier

TIMEOUT_S = 300.0
NUM_PROBES = 8
LORA = LoraSpec(rank=8, alpha=16.0)
SCALE_B = 0.05
"""Standard deviation of the random B: the adapter moves log-probs by far more than rounding does."""


@dataclass(frozen=True, slots=True)
class EngineRound:
    """Result of a round, which raises WeightSyncMismatch if a delivery could not be proven.

    Example:
        EngineRound(start_s=4.1, deliver_s=.03, probe_difference=9e-7, change=.8, sampled_tokens=160,
                    logprob_difference_mean=3e-7, logprob_difference_max=2e-6, step_change=.02)
    """

    start_s: float
    deliver_s: float
    """Load and probe, as the worker saw it."""
    probe_difference: float
    """Largest |engine - learner| over the probe tokens, of both deliveries."""
    change: float
    """Distance that the random adapter moved the probe tokens from the base, by the learner."""
    sampled_tokens: int
    logprob_difference_mean: float
    """|engine - learner| over the sampled tokens, in nats."""
    logprob_difference_max: float
    step_change: float
    """Distance that one RL step on the sampled group moved the probe tokens."""


def engine_round(device: torch.device, dtype: str, mode: Mode = "merged") -> EngineRound:
    """Builds the model in a temporary directory, starts an engine in this process and takes the round.

    `dtype`: float32, bfloat16 or nf4, which needs `mode` adapter.
    """
    lora_rank = LORA.rank if mode == "adapter" else None
    spec = RolloutSpec(
        gpus_per_worker=1.0 if device.type == "cuda" else 0.0,
        group_size=16,
        prompts_per_step=1,
        max_sequences=32,
        gpu_memory_utilization=0.3,
    )
    config = TrainConfig.model_validate({"name": "engine-check", "rollout": spec.model_dump()})
    verifier = SyncVerifier(dtype)
    with tempfile.TemporaryDirectory(prefix="polyray-engine-check-") as directory:
        model_dir = build_tiny_model(Path(directory))
        sequences = probe_sequences(config.task, spec, NUM_PROBES, 0, model_dir, dtype)
        model, base_logprobs = _random_policy(model_dir, dtype, device, sequences)
        worker = RolloutWorker("engine-check", lambda: _engine(model_dir, spec, dtype, lora_rank))
        try:
            start_s = worker.ready.result(TIMEOUT_S)
            payload = payload_of(model, 1, Probe(sequences, probe_logprobs(model, sequences), base_logprobs))
            ack = worker.deliver(payload).result(TIMEOUT_S)
            proof = verifier.check(ack, payload)
            group = worker.submit(_request(config)).result(TIMEOUT_S)
            metrics = rl_step(model, config, group)
            stepped = probe_logprobs(model, sequences)
            second = payload_of(model, 2, Probe(sequences, stepped, payload.probe.logprobs))
            ack_2 = worker.deliver(second).result(TIMEOUT_S)
            proof_2 = verifier.check(ack_2, second)
        finally:
            worker.stop()
    return EngineRound(
        start_s=start_s,
        deliver_s=ack_2.load_s + ack_2.probe_s,
        probe_difference=max(proof.max_difference, proof_2.max_difference),
        change=float(proof.change or 0.0),
        sampled_tokens=group.num_tokens,
        logprob_difference_mean=float(metrics["logprob_difference_mean"] or 0.0),
        logprob_difference_max=float(metrics["logprob_difference_max"] or 0.0),
        step_change=float(proof_2.change or 0.0),
    )


def build_tiny_model(directory: Path) -> Path:
    """The embedded model's architecture and tokenizer with random weights from a fixed seed, in seconds."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from polyray.learner.embedded import ARCHITECTURE, build_tokenizer

    tokenizer = build_tokenizer()
    ids = tokenizer.get_vocab()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(ids),
                pad_token_id=ids["<pad>"],
                bos_token_id=ids["<bos>"],
                eos_token_id=ids["<eos>"],
                **ARCHITECTURE,
            )
        )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def payload_of(model: Any, version: int, probe: Probe) -> PolicyUpdate:
    """The adapter as it is now, as a version to deliver."""
    content = adapter_bytes(model)
    shape = AdapterShape.from_peft(adapter_config(model))
    return PolicyUpdate(PolicyVersion(1, version, sha256_of(content)), content, shape, probe)


def rl_step(model: Any, config: TrainConfig, *groups: Group) -> StepMetrics:
    """One optimiser step on groups rewarded at random (0 or 1); the metrics compare learner and engine."""
    from polyray.learner.optim import build_optimizer, build_scheduler
    from polyray.learner.step import PolicyLearner

    optimizer = build_optimizer(model.parameters(), config.learner)
    learner = PolicyLearner(model, optimizer, build_scheduler(optimizer, config.learner), config)
    scored = tuple(randomly_scored(group) for group in groups)
    return learner.step(TrainingBatch(0, scored, len(scored)))


def randomly_scored(group: Group) -> ScoredGroup:
    """Rewards 0 and 1 in turns, so that every group has training signal."""
    rewards = np.arange(len(group.completions)) % 2
    return ScoredGroup(group, rewards.astype(float), np.where(rewards == 1, 0, -1))


def _random_policy(model_dir: Path, dtype: str, device: torch.device, sequences: Any) -> tuple[Any, Any]:
    """(model with a random adapter, the base's log-probs of the probe)."""
    base: Any = load_base(model_dir, dtype, device)
    model = attach_adapter(base, LORA, None, base_sha256=base_fingerprint(model_dir), seed=0)
    base_logprobs = probe_logprobs(model, sequences)  # a fresh adapter has B = 0: this is the base
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"lora_B.{POLICY}" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * SCALE_B)
    add_reference(model)
    return model.eval(), base_logprobs


def _engine(model_dir: Path, spec: RolloutSpec, dtype: str, lora_rank: int | None) -> Any:
    from polyray.rollout.vllm_engine import VllmEngine

    return VllmEngine(EngineSettings(str(model_dir), dtype, spec, lora_rank))


def _request(config: TrainConfig) -> GroupRequest:
    from polyray.tasks import build_task

    rollout = config.rollout
    prompt = build_task(HiddenTrapGridSpec()).training_prompt(0, config.seed)
    return GroupRequest(0, prompt, tuple(range(1, rollout.group_size + 1)), rollout.max_completion_tokens)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    on_gpu = torch.cuda.is_available()
    parser = ArgumentParser()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default=None, choices=["float32", "bfloat16", NF4])
    parser.add_argument("--delivery", default="merged", choices=get_args(Mode))
    given = parser.parse_args()
    dtype = given.dtype or ("float32" if given.device == "cpu" else "bfloat16")
    seen = engine_round(torch.device(given.device), dtype, given.delivery)
    print(json.dumps({"device": given.device, **dataclasses.asdict(seen)}))
