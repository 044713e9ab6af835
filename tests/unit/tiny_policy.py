"""Fixtures for tests of learner, weight sync and log-probs: a random Qwen3 of one layer, and groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from polyray.config.model import LoraSpec
from polyray.config.run import TrainConfig
from polyray.learner.embedded import build_tokenizer
from polyray.models.lora import add_reference, attach_adapter
from polyray.types import Completion, Group, PolicyVersion, Prompt, ScoredGroup

VOCABULARY = 28
"""The embedded tokenizer's: <pad>, <bos>, <eos> and 25 characters."""
EOS = 2
NUM_FACTORS = 14
"""Tensors of a complete adapter: A and B of seven modules."""
POLICY = PolicyVersion(1, 0, "0" * 64)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}


def build_base(seed: int = 0, **shape: Any) -> Qwen3ForCausalLM:
    """Random weights, several times larger than usual, so that its distributions are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE | shape)).eval()


def save_base(directory: Path, **shape: Any) -> Path:
    """A model directory with weights and tokenizer."""
    build_base(**shape).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


def build_policy(
    spec: LoraSpec | None = None, *, moved: bool = True, reference: bool = True, seed: int = 0
) -> PeftModel:
    """An adapter on `build_base`, a frozen reference of its start, and the adapter `moved` away from it."""
    model = attach_adapter(
        build_base(), spec or LoraSpec(rank=4, alpha=8), None, base_sha256="b" * 64, seed=seed
    )
    if reference:
        add_reference(model)
    if moved:
        move(model)
    return model.eval()


def move(model: PeftModel, size: float = 0.05, seed: int = 3) -> None:
    """Move every trainable parameter at random, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


def train_config(**sections: Any) -> TrainConfig:
    """A small configuration; `sections` are merged into its own, key by key."""
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 5,
        "model": {"lora": {"rank": 4, "alpha": 8}},
        "rollout": {"prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 6},
        "learner": {"steps": 6, "learning_rate": 1e-2, "warmup_steps": 2, "checkpoint_every": 2},
        "delivery": {"num_probes": 3},
        "dynamics": None,
    }
    for name, section in sections.items():
        values[name] = {**(values.get(name) or {}), **section} if isinstance(section, dict) else section
    return TrainConfig.model_validate(values)


def random_group(
    group_id: int,
    rewards: Sequence[float],
    *,
    classes: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    rollout_shift: float = 0.0,
    policy: PolicyVersion = POLICY,
) -> ScoredGroup:
    """Random tokens; rollout log-probs that are random too, `rollout_shift` nats off from plausible ones."""
    draw = np.random.default_rng(group_id)
    sizes = lengths if lengths is not None else draw.integers(1, 7, len(rewards))
    completions = tuple(
        Completion(
            draw.integers(3, VOCABULARY, size).astype(np.int32),
            (-3.3 + rollout_shift + 0.3 * draw.standard_normal(size)).astype(np.float32),
            f"text {group_id}/{index}",
            "length" if index % 3 == 0 else "stop",
            seed=index,
        )
        for index, size in enumerate(sizes)
    )
    prompt_tokens = np.array([1, *draw.integers(3, VOCABULARY, 2 + group_id % 4)], np.int32)
    prompt = Prompt(f"p{group_id}", f"prompt {group_id}")
    return ScoredGroup(
        Group(group_id, prompt, prompt_tokens, completions, policy),
        np.asarray(rewards, np.float64),
        np.asarray(classes if classes is not None else [-1] * len(rewards), np.int64),
    )
