"""What `delivery.mode: auto` asks one engine: sampling with and without an adapter, taking a version on either way.

The engine is built for adapters; a batch in which no request has one skips the adapters' kernels, and its
base layers can be reloaded like a bare engine's. Both ways are taken in turn, after one batch each that warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.models.adapter import AdapterPayload, AdapterShape, Probe, sha256_of
from polyray.rollout.vllm_delivery import AdapterDelivery
from polyray.rollout.vllm_engine import build_llm
from polyray.types import PolicyVersion
from polyray.weight_sync.merge import PEFT_PREFIX, MergedWeights, base_weight_files
from polyray.weight_sync.mode import DeliveryMeasurements, completions_per_version, drain_share

PROMPT_TOKENS = 8
SAMPLED_TOKENS = 16
REPEATS = 3
"""Of each; the fastest counts."""


def measure_delivery(model_dir: Path, spec: RolloutSpec, dtype: str, lora: LoraSpec) -> DeliveryMeasurements:
    """Builds an engine in this process, which is of no use for anything else afterwards."""
    llm = build_llm(model_dir, spec, dtype, lora.rank)
    delivery = AdapterDelivery(model_dir, llm.llm_engine, lora.rank)
    payload = random_payload(model_dir, lora)
    load_s = _seconds(lambda: delivery.load(payload))
    adapter = delivery.probed().lora_request
    plain, adapted = [], []
    for _ in range(1 + REPEATS):
        plain.append(_seconds(lambda: _sample(llm, spec, None)))
        adapted.append(_seconds(lambda: _sample(llm, spec, adapter)))
    reload_s = _reload_seconds(llm, MergedWeights(model_dir), payload)
    delivery.close()
    # The batch stands for all that a worker samples under one version.
    sampled = min(spec.max_sequences, completions_per_version(spec)) * _tokens(spec)
    scale = completions_per_version(spec) * spec.max_completion_tokens / sampled
    return DeliveryMeasurements(
        sample_s=scale * min(plain[1:]),
        sample_adapter_s=scale * min(adapted[1:]),
        load_s=load_s,
        reload_s=reload_s,
        drain_share=drain_share(spec),
    )


def random_payload(model_dir: Path, lora: LoraSpec) -> AdapterPayload:
    """An adapter of the run's shape, small random factors in every target module."""
    draw = torch.Generator().manual_seed(0)
    factors: dict[str, torch.Tensor] = {}
    for name, file in sorted(base_weight_files(model_dir).items()):
        stem = name.removesuffix(".weight")
        if stem != name and stem.rpartition(".")[2] in lora.target_modules:
            with safe_open(str(file), framework="pt") as tensors:
                rows, columns = tensors.get_slice(name).get_shape()
            factors[f"{PEFT_PREFIX}{stem}.lora_A.weight"] = (
                torch.randn(lora.rank, columns, generator=draw) / columns
            )
            factors[f"{PEFT_PREFIX}{stem}.lora_B.weight"] = (
                torch.randn(rows, lora.rank, generator=draw) / rows
            )
    content = save(factors)
    shape = AdapterShape(lora.rank, lora.alpha, tuple(sorted(lora.target_modules)))
    probe = Probe((), np.zeros(0, np.float32), None)
    return AdapterPayload(PolicyVersion(0, 0, sha256_of(content)), content, shape, probe)


def _sample(llm: Any, spec: RolloutSpec, lora_request: Any) -> None:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=_tokens(spec), ignore_eos=True, logprobs=0, detokenize=False)
    length = min(PROMPT_TOKENS, spec.max_prompt_tokens)
    prompts = [
        {"prompt_token_ids": [1 + row % 16] * length}
        for row in range(min(spec.max_sequences, completions_per_version(spec)))
    ]
    llm.generate(prompts, params, lora_request=lora_request, use_tqdm=False)


def _tokens(spec: RolloutSpec) -> int:
    return min(SAMPLED_TOKENS, spec.max_completion_tokens)


def _reload_seconds(llm: Any, weights: MergedWeights, payload: AdapterPayload) -> float:
    weights.merge(payload)  # reads the pristine base, once in a run
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        merged = weights.merge(payload)
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(merged)})
        llm.reset_prefix_cache()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
